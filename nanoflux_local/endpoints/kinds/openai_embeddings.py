"""The OpenAI embeddings kind: an embedder behind a server's `/v1/embeddings`."""

from typing import ClassVar

from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.base import Embedder
from nanoflux_local.endpoints.kinds.base import EndpointKind
from nanoflux_local.paths import Home


class OpenAIEmbeddingsKind(EndpointKind):
    name: ClassVar[str] = "openai_embeddings"
    structured: ClassVar[bool] = True  # accepted without effect, since older profiles set `structured`
    charges: ClassVar[bool] = True
    default_host: ClassVar[str] = "api.openai.com"

    def build_embedder(self, config: EndpointConfig, home: Home) -> Embedder:
        from nanoflux_local.endpoints.remote.embeddings import ServedEmbedder

        return ServedEmbedder(
            config.model,
            config.addresses,
            config.key_env,
            config.key_file,
            config.price,
            config.capacity,
            config.timeout_s,
            config.revision,
        )


KIND = OpenAIEmbeddingsKind()
