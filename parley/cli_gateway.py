"""`parley gateway-token`: a token for a tenant of the gateway."""

from typing import Annotated

import typer

from parley.broker.core.errors import SettingsError
from parley.cli_common import err, out
from parley.gateway.tenants import NAME, hash_of, new_token


# fmt: off
def gateway_token(
    tenant: Annotated[str, typer.Argument(help="Whose token it is: 2 to 24 of a-z 0-9.", show_default=False)],
) -> None:
    """Make a token for a tenant of the gateway: the token once, and the line for the file of PARLEY_GATEWAY_TENANTS."""
    # fmt: on
    if not NAME.fullmatch(tenant):
        raise SettingsError([f"TENANT: {tenant!r} is no name: 2 to 24 of a-z 0-9"])
    token = new_token()
    err.print("The token, shown this once; its owner sends it as `Authorization: Bearer <token>`:", highlight=False)
    out.print(token, markup=False, highlight=False, soft_wrap=True)
    err.print("In the file of PARLEY_GATEWAY_TENANTS:", highlight=False)
    err.print(f'[tenants.{tenant}]\ntokens = ["{hash_of(token)}"]', markup=False, highlight=False, soft_wrap=True)
