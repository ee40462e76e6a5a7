"""The price list: a YAML file, strictly read, into exact numbers.

prices.yaml ──every scalar as text──▶ PriceList (fractions, never floats)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from client.costs.amounts import Amounts, Engine
from client.errors import ConfigurationError

__all__ = ("Bill", "PriceList", "load_prices", "parse_prices")

_GB = 10**9
_MONTH_S = 2_629_800
"""A twelfth of 365.25 days."""
_NUMBERS = ("cpu_second", "gb_month", "gb_received", "gb_sent", "gb_fetched")
_KEYS = ("currency", "engine_second", *_NUMBERS, "idle_factor")


@dataclass(frozen=True, slots=True)
class Bill:
    """Money by what it was spent on, exact.

    Attributes:
        engine: For the time of GPUs, or of what the networks run on.
        cpu: For the workers' cores.
        storage: For objects, as long as they lay there.
        transfer: For bytes that came in, went out, or went to workers.
    """

    engine: Fraction
    cpu: Fraction
    storage: Fraction
    transfer: Fraction

    @property
    def total(self) -> Fraction:
        """All of it."""
        return self.engine + self.cpu + self.storage + self.transfer


@dataclass(frozen=True, slots=True)
class PriceList:
    """What things cost, in units of a currency.

    Attributes:
        currency: Three letters (ISO 4217).
        engine_second: By the engine's name as the model's configuration has it, or by device,
            ``gpu`` or ``cpu``; the name goes before.
        cpu_second: A second of one core of a worker.
        gb_month: 10^9 bytes kept for a twelfth of a year.
        gb_received: 10^9 bytes from senders.
        gb_sent: 10^9 bytes to senders.
        gb_fetched: 10^9 bytes from the object store to workers.
        idle_factor: Multiplies the prices of engine and cores: pods cost while they wait too.
    """

    currency: str
    engine_second: Mapping[str, Fraction]
    cpu_second: Fraction
    gb_month: Fraction
    gb_received: Fraction
    gb_sent: Fraction
    gb_fetched: Fraction
    idle_factor: Fraction

    def bill(self, amounts: Amounts) -> Bill:
        """Return what amounts cost.

        Raises:
            ConfigurationError: An engine has no price.
        """
        engine = sum(
            (self._engine(one) * used_us for one, used_us in amounts.engine_us.items()),
            Fraction(0),
        )
        transfer = (
            self.gb_received * amounts.received_bytes
            + self.gb_sent * amounts.sent_bytes
            + self.gb_fetched * amounts.fetched_bytes
        )
        return Bill(
            engine=engine * self.idle_factor / 10**6,
            cpu=self.cpu_second * amounts.cpu_us * self.idle_factor / 10**6,
            storage=self.gb_month * amounts.kept_byte_us / (_GB * _MONTH_S * 10**6),
            transfer=transfer / _GB,
        )

    def _engine(self, engine: Engine) -> Fraction:
        for name in (engine.name, engine.device):
            if name in self.engine_second:
                return self.engine_second[name]
        raise ConfigurationError(
            f"The price list has no engine_second for {engine.name!r}, nor for {engine.device!r}."
        )


def load_prices(path: Path) -> PriceList:
    """Read a price list.

    Raises:
        ConfigurationError: It is not readable, or not one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Cannot read the price list {path}.") from error
    return parse_prices(text, str(path))


def parse_prices(text: str, where: str = "the price list") -> PriceList:
    """Parse a price list.

    Args:
        text: YAML.
        where: What errors call it.

    Raises:
        ConfigurationError: A key is missing, unknown or twice there, or a price is not a decimal
            number of at least 0.
    """
    try:
        values = yaml.load(text, Loader=_Strict)  # noqa: S506  # makes text, lists and mappings only
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{where}: not the YAML of a price list: {error}") from error
    _require_keys(values, _KEYS, where)
    engines = values["engine_second"]
    if not isinstance(engines, dict) or not engines:
        raise ConfigurationError(f"{where}: engine_second: expected prices by engine or device.")
    currency = values["currency"]
    if not (
        isinstance(currency, str)
        and len(currency) == 3
        and currency.isascii()
        and currency.isupper()
    ):
        raise ConfigurationError(f"{where}: currency: expected three letters, got {currency!r}.")
    idle_factor = _number(values["idle_factor"], f"{where}: idle_factor")
    if idle_factor < 1:
        raise ConfigurationError(f"{where}: idle_factor: expected at least 1.")
    return PriceList(
        currency=currency,
        engine_second={
            name: _number(price, f"{where}: engine_second: {name}")
            for name, price in engines.items()
        },
        idle_factor=idle_factor,
        **{name: _number(values[name], f"{where}: {name}") for name in _NUMBERS},
    )


class _Strict(yaml.BaseLoader):
    """Keeps scalars as text, and refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"{', '.join(sorted(twice))} is there twice")
        return super().construct_mapping(node, deep)


def _require_keys(values: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(values, dict):
        raise ConfigurationError(f"{where}: expected the keys {', '.join(keys)}.")
    unknown, missing = sorted(set(values) - set(keys)), sorted(set(keys) - set(values))
    if unknown or missing:
        raise ConfigurationError(
            f"{where}: expected the keys {', '.join(keys)}; unknown: {', '.join(unknown) or '-'}, "
            f"missing: {', '.join(missing) or '-'}."
        )


def _number(value: Any, where: str) -> Fraction:
    try:
        number = Decimal(value) if isinstance(value, str) else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise ConfigurationError(
            f"{where}: expected a decimal number of at least 0, got {value!r}."
        )
    return Fraction(number)
