"""Shared logic of filters and modules: hosts, engines, images, storage, hardware, versions. In no image."""
