"""What time it is at the NATS server. Deadlines and stored instants are the server's, so they are compared with this."""

import time


class ServerClock:
    def now(self) -> float:
        """Seconds since the epoch, by the server's clock."""
        return time.time()
