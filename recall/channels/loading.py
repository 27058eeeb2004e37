"""Finds a recall channel's class by a known name, or in a user's file as "file.py:Class"."""

from envs.errors import ConfigurationError
from envs.loading import Kind
from recall.channels.base import RecallChannel

CHANNEL = Kind(
    name="recall channel",
    wanted="a subclass of recall.RecallChannel",
    error=ConfigurationError,
    known={
        "als": "recall.channels.als:ALS",
        "bpr": "recall.channels.bpr:BPR",
        "two_tower": "recall.channels.two_tower:TwoTower",
        "item_to_item": "recall.channels.item_to_item:ItemToItem",
        "popular": "recall.channels.popular:Popular",
        "fresh": "recall.channels.fresh:Fresh",
        "category": "recall.channels.category:Category",
    },
)
"""Where each channel lives; it is imported when it is asked for."""


def resolve_channel(spec: str) -> type[RecallChannel]:
    """The class of a channel.

    Args:
        spec: a known name, or "path/to/file.py:Class".

    Raises:
        ConfigurationError: if there is no such name, file or class, the file fails when it is imported, or the class is not
            a channel.
    """
    return CHANNEL.find_derived(spec, RecallChannel)
