"""Keeps the notebooks of a node apart: rules of nftables in the notebooks' network, on every node."""
