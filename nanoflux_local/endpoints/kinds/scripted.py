"""The scripted kind: the packaged fake model and fake embedder."""

from typing import ClassVar

from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.base import Embedder, Endpoint
from nanoflux_local.endpoints.kinds.base import EndpointKind
from nanoflux_local.paths import Home


class ScriptedKind(EndpointKind):
    name: ClassVar[str] = "scripted"

    def build(self, name: str, config: EndpointConfig, home: Home) -> Endpoint:
        from nanoflux_local.endpoints.scripted import ScriptedEndpoint

        return ScriptedEndpoint(config.model, config.delay_s)

    def build_embedder(self, config: EndpointConfig, home: Home) -> Embedder:
        from nanoflux_local.endpoints.scripted import HashingEmbedder

        return HashingEmbedder(config.model)


KIND = ScriptedKind()
