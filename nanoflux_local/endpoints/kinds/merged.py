"""The merged kind: a managed vLLM server whose weights contain the adapter. Profiles cannot use it."""

from typing import ClassVar

from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.kinds.base import EndpointKind
from nanoflux_local.paths import Home


class MergedKind(EndpointKind):
    name: ClassVar[str] = "merged"
    in_profiles: ClassVar[bool] = False
    local: ClassVar[bool] = True
    managed: ClassVar[bool] = True
    takes_adapter: ClassVar[bool] = True

    def build(self, name: str, config: EndpointConfig, home: Home) -> Endpoint:
        from nanoflux_local.endpoints.managed.merged import build_merged_endpoint

        return build_merged_endpoint(config, home)


KIND = MergedKind()
