"""Prices of hosted models, for profiles that state no price: a packaged table, which the user's table overrides.

A price is listed by host and model, since a model may have different prices at different hosts.
"""

import re
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nanoflux_local.config import EndpointConfig, Price, read_toml, validate_model
from nanoflux_local.endpoints.kinds.base import find_kind

FILE = "prices.toml"
"""The name of the packaged table, and of the user's table in the home."""
_DATE_SUFFIX = re.compile(r"[-@]\d{4}-?\d{2}-?\d{2}$")
"""The date at the end of a model's name."""


def find_price(endpoint: EndpointConfig, home: Path) -> Price | None:
    """The listed price of an endpoint's model at its address, or None.

    Raises:
        ConfigError: the user's table cannot be read, or a price in it is invalid.
    """
    hosts = {urlsplit(url).hostname for url in endpoint.addresses}
    if not hosts:
        hosts = {find_kind(endpoint.interface).default_host}
    if len(hosts) > 1:  # several hosts may have different prices
        return None
    host = str(hosts.pop())
    if not host:
        return None
    user_file = home / FILE
    user_prices = read_toml(user_file) if user_file.exists() else {}
    undated_name = _DATE_SUFFIX.sub("", endpoint.model)
    for path, table in ((user_file, user_prices), (Path(FILE), _load_packaged_prices())):
        price_by_model = table.get(host, {})
        for name in (endpoint.model, undated_name):
            if name in price_by_model:
                return validate_model(Price, price_by_model[name], f"{path}: {host}: {name}")
    return None


def _load_packaged_prices() -> dict[str, Any]:
    """The packaged table: prices by host, then by model."""
    return read_toml(Path(str(resources.files(__package__) / FILE)))
