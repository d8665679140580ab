"""`parley provision`: shows where the streams in NATS differ from what a service needs, and makes what loses nothing."""

from dataclasses import replace

from parley.broker.core.errors import SettingsError
from parley.broker.core.reply_subjects import SERVICE_INBOX
from parley.broker.jetstream.connection import check_server, close, connect
from parley.broker.jetstream.provision import Extent, provision, review
from parley.cli_common import FAILED, OK, out
from parley.settings import Settings


async def run(settings: Settings, *, apply: bool) -> int:
    """The exit code. Raises SettingsError, Unavailable."""
    if settings.nats_url is None:
        raise SettingsError(["NATS_URL: not set, and no `parley up` runs here"])
    nc = await connect(settings.nats_url, "parley-provision", SERVICE_INBOX, settings.nats_access)
    try:
        await check_server(nc, settings.nats_url)
        if apply:
            # For limits of model servers too: whoever may make streams need not know the file that has them.
            wanted = replace(settings.wanted, limits=True)
            lines = await provision(nc.jetstream(), wanted, extent=Extent.ALL)
        else:
            lines = await review(nc.jetstream(), settings.wanted)
    finally:
        await close(nc)
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if not lines:
        out.print("all streams and consumers are as they are needed")
    return OK if apply or not lines else FAILED
