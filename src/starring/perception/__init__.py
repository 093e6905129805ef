"""Frozen eyes: networks that look at pictures, for metrics, for masks, and as rewards."""
