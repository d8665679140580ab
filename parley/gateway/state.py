"""What all doors of one gateway share: the client, the tenants, what they have used, and the list."""

from dataclasses import dataclass
from http import HTTPStatus

from parley.client import Client
from parley.gateway.caller import Accounts, Caller
from parley.gateway.listing import Listing
from parley.gateway.problems import Problem
from parley.gateway.tenants import ANYBODY, TenantsFile

_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class GatewayState:
    """`tenants` None: anybody may ask."""

    client: Client
    tenants: TenantsFile | None
    accounts: Accounts
    listing: Listing

    def caller(self, authorization: str, traceparent: str | None) -> Caller:
        """Who has sent this `authorization`; its request is counted. Raises Problem for an unknown token, and beyond the
        tenant's rate."""
        tenant = ANYBODY
        if self.tenants is not None:
            is_bearer = authorization.lower().startswith(_BEARER)
            token = authorization[len(_BEARER) :].strip() if is_bearer else ""
            found = self.tenants.of_token(token) if token else None
            if found is None:
                words = "this token is not known" if token else "send authorization: Bearer <token>"
                raise Problem(HTTPStatus.UNAUTHORIZED, words, headers={"WWW-Authenticate": "Bearer"})
            tenant = found
        caller = Caller(tenant, self.client, self.accounts, traceparent)
        caller.check_rate()
        return caller
