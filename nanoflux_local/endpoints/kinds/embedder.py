"""The local embedder kind: an installed sentence embedder in this process."""

from typing import ClassVar

from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.base import Embedder
from nanoflux_local.endpoints.kinds.base import EndpointKind
from nanoflux_local.paths import Home


class LocalEmbedderKind(EndpointKind):
    name: ClassVar[str] = "embedder"
    local: ClassVar[bool] = True

    def build_embedder(self, config: EndpointConfig, home: Home) -> Embedder:
        """Build the embedder; its weights are loaded when the first text arrives.

        Raises:
            ModelsError: the weights are not installed.
        """
        from nanoflux_local.endpoints.local.embedder import LocalEmbedder
        from nanoflux_models.weights import weights_dir

        return LocalEmbedder(weights_dir(config.model, home.root))


KIND = LocalEmbedderKind()
