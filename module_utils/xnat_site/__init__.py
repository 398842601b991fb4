"""Shared logic of filters and modules: hosts, engines, images, storage, hardware, versions. Not part of any image."""
