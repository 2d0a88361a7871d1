"""Every kind of probe, found by looking into this package: a new file is enough to add one."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import get_origin

from driftpost_models import probes
from driftpost_models.errors import ProbeError
from driftpost_models.probes.probe import Probe, probe_from_dict


@functools.lru_cache(maxsize=1)
def probe_kinds() -> Mapping[str, type[Probe]]:
    """All kinds of probes by their name."""
    found: dict[str, type[Probe]] = {}
    for module in pkgutil.iter_modules(probes.__path__):
        for value in vars(importlib.import_module(f"{probes.__name__}.{module.name}")).values():
            # Python 3.10 takes an alias such as `dict[str, int]` for a type, and then refuses to compare it.
            is_class = isinstance(value, type) and get_origin(value) is None
            if is_class and issubclass(value, Probe) and value is not Probe:
                found[value.kind] = value
    return MappingProxyType(dict(sorted(found.items())))


def load_probe(plain: object) -> Probe:
    """A probe from its stored configuration.

    Raises:
        ProbeError: the kind is unknown or a field is wrong.
    """
    if not isinstance(plain, Mapping) or not isinstance(plain.get("kind"), str):
        raise ProbeError("a probe's configuration needs its kind")
    kind = probe_kinds().get(plain["kind"])
    if kind is None:
        raise ProbeError(f"probe kind {plain['kind']!r} is not known here: update driftpost on this machine")
    return probe_from_dict(kind, plain)
