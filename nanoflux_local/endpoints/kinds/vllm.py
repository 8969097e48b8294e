"""The vLLM kind: an installed model behind a vLLM server that NanoFlux starts; adapters are loaded as LoRA modules."""

from collections.abc import Mapping
from typing import ClassVar

from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.kinds.base import EndpointKind
from nanoflux_local.paths import Home


class VllmKind(EndpointKind):
    name: ClassVar[str] = "vllm"
    local: ClassVar[bool] = True
    managed: ClassVar[bool] = True
    takes_adapter: ClassVar[bool] = True
    structured: ClassVar[bool] = True
    batch_invariant: ClassVar[bool] = True

    def build(self, name: str, config: EndpointConfig, home: Home) -> Endpoint:
        endpoint_by_name, _ = self.build_together({name: config}, home, 0)
        return endpoint_by_name[name]

    def build_together(
        self, configs: Mapping[str, EndpointConfig], home: Home, concurrency: int
    ) -> tuple[dict[str, Endpoint], dict[str, str]]:
        """Divide this machine's GPUs among the servers of all endpoints, and build the endpoints. A server starts when
        its first request arrives.

        Raises:
            NanofluxError, ModelsError: vLLM, weights or an adapter are missing, or the models do not fit.
        """
        from nanoflux_local.endpoints.managed.launches import build_managed

        endpoints, groups = build_managed(configs, home, concurrency)
        return dict(endpoints), groups


KIND = VllmKind()
