"""How this device loads models and whom it trusts, as its settings say."""

from __future__ import annotations

from collections.abc import Callable

from driftpost_agent.errors import ConfigurationInvalid
from driftpost_models.bundle import Bundle
from driftpost_models.isolated import IsolatedRuntime
from driftpost_models.runtime import Runtime, load_model
from driftpost_models.signing import PublicKey, load_public_key
from driftpost_sync.settings import Settings


def trusted_keys(settings: Settings) -> list[PublicKey]:
    """Public keys whose bundles may run here; empty only where unsigned ones may.

    Raises:
        ConfigurationInvalid: no key is named, and unsigned bundles are not allowed.
        KeyProblem: a key's file can't be read.
    """
    keys = [load_public_key(path) for path in settings.paths("model.trusted_keys")]
    if not keys and not settings.flag("model.allow_unsigned"):
        raise ConfigurationInvalid(
            "model.trusted_keys",
            "no key is trusted, so no bundle can run",
            "Name the public key of whoever builds the bundles, or for a trial set model.allow_unsigned.",
        )
    return keys


def loader(
    settings: Settings, announce: Callable[[IsolatedRuntime], None] = lambda _: None
) -> Callable[[Bundle], Runtime]:
    """Loads a bundle's model as configured: in a process of its own, or in this one.

    Args:
        settings: agent.toml.
        announce: called with each runtime before its model is loaded, so that it can be closed meanwhile.

    Raises:
        ConfigurationInvalid: CPUs are named for a model that shares the agent's process.
    """
    threads = settings.integer("model.threads")
    providers = settings.texts("model.providers")
    cpus = settings.items_of("model.cpus", int)
    isolated = settings.flag("model.isolated")
    cache = settings.path("store.path").parent / "engines"
    if cpus and not isolated:
        raise ConfigurationInvalid(
            "model.cpus",
            "a model in the agent's own process can't have CPUs of its own",
            "Leave model.isolated at true, or pin the whole agent with CPUAffinity= in its unit.",
        )

    def start(bundle: Bundle) -> Runtime:
        if isolated:
            return IsolatedRuntime(
                bundle.model_bytes,
                kind=bundle.model_kind,
                threads=threads,
                providers=providers,
                cpus=cpus,
                cache=cache,
                deadline_s=settings.number("model.deadline_seconds"),
                start_deadline_s=settings.number("model.start_seconds"),
                announce=announce,
            )
        return load_model(
            bundle.model_bytes, kind=bundle.model_kind, threads=threads, providers=providers, cache=cache
        )

    return start
