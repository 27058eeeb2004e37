"""Configurations made of tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from envs.errors import ConfigurationError
from envs.settings import check_types, with_settings


@dataclass(frozen=True)
class Engine:
    power: float = 60.0
    fuel: Literal["petrol", "power"] = "petrol"


@dataclass(frozen=True)
class Car:
    seats: int = 4
    name: str = "car"
    open: bool = False
    doors: tuple[int, ...] = (1, 2)
    engine: Engine = field(default_factory=lambda: Engine(fuel="power"))
    plate: str | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)


def test_parts_keep_what_is_not_told():
    car = with_settings(
        Car(),
        {"engine": {"power": 90}, "doors": [1, 2, 3], "plate": "x", "shares": {"a": 1}, "extras": {"b": []}},
        "it",
    )
    assert car == Car(engine=Engine(90, "power"), doors=(1, 2, 3), plate="x", shares={"a": 1}, extras={"b": []})
    assert with_settings(Car(), {"engine": Engine(5)}, "it").engine == Engine(5, "petrol")
    assert with_settings(Car(), {"plate": None}, "it") == Car()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seats": "four"}, "seats of it is 'four'; it must be a whole number"),
        ({"seats": 4.5}, "a whole number"),
        ({"seats": True}, "a whole number"),
        ({"open": 1}, "true or false"),
        ({"name": 3}, "a text"),
        ({"doors": 3}, "a list of a whole number each"),
        ({"doors": [1, "two"]}, "a list of a whole number each"),
        ({"plate": 3}, "a text or nothing"),
        ({"shares": "a"}, "a table with a number for each name"),
        ({"shares": {"a": "much"}}, "a table with a number for each name"),
        ({"extras": [1]}, "a table"),
        ({"engine": "big"}, "a table of power, fuel"),
        ({"engine": {"power": "high"}}, "power of engine of it is 'high'; it must be a number"),
        ({"engine": {"fuel": "coal"}}, "'petrol' or 'power'"),
        ({"engine": {"wheels": 4}}, "engine of it has no setting 'wheels'; it has power, fuel"),
        ({"wings": 2}, "it has no setting 'wings'"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        with_settings(Car(), settings, "it")


def test_a_configuration_made_in_python_is_checked_too():
    check_types(Car(), "the car")
    with pytest.raises(ConfigurationError, match="seats of the car is '4'"):
        check_types(Car(seats="4"), "the car")  # type: ignore[arg-type]
