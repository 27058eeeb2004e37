"""Recall channels, one a file: each finds candidates in the whole catalogue in its own way; `recall.merging` joins them."""

from recall.channels.base import RecallChannel
from recall.channels.loading import resolve_channel

__all__ = ["RecallChannel", "resolve_channel"]
