"""The in-process kind: an installed model in this process, with or without an adapter."""

from typing import ClassVar

from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.context import Context
from nanoflux_local.endpoints.kinds.base import EndpointKind
from nanoflux_local.paths import Home


class InProcessKind(EndpointKind):
    name: ClassVar[str] = "in_process"
    local: ClassVar[bool] = True
    takes_adapter: ClassVar[bool] = True
    supports_prefill: ClassVar[bool] = True
    fixed_context: ClassVar[bool] = True

    def build(self, name: str, config: EndpointConfig, home: Home) -> Endpoint:
        """Build the endpoint; its weights are loaded when the first request arrives.

        Raises:
            ModelsError: the weights are not installed, or the model has no chat template.
            NothingMatchedError: no adapter has the configured hash.
        """
        from nanoflux_local.adapters.store import find_adapter
        from nanoflux_local.endpoints.local.in_process import ROWS, InProcessEndpoint
        from nanoflux_models.chat_template import require_template
        from nanoflux_models.manifest import load_manifest
        from nanoflux_models.weights import weights_dir

        manifest, weights = load_manifest(config.model, home.root), weights_dir(config.model, home.root)
        require_template(config.model, weights)
        reasoning_tokens = config.reasoning_tokens
        return InProcessEndpoint(
            weights,
            adapter=find_adapter(home.adapters, config.adapter) if config.adapter else None,
            rows=config.rows or ROWS,
            system_role=manifest.chat.system_role,
            # Only requests to a reasoning model are checked against the context: other replies may be cut short.
            context=Context(manifest.context, reasoning_tokens) if reasoning_tokens else None,
        )


KIND = InProcessKind()
