"""The model call as a task of a synchronous queue makes it: requests, over kept connections."""

import requests
from requests.adapters import HTTPAdapter

from benchmarks.question import MODEL, TEMPERATURE, prompt

# More than one worker process has calls at a time.
CONNECTIONS = 256
LONGEST_SECONDS = 30.0


class Model:
    """One session for a whole process: its pool of connections is safe among threads."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._body = {"model": MODEL, "messages": list(prompt()), "temperature": TEMPERATURE}
        self._http = requests.Session()
        self._http.trust_env = False  # as `ModelClient`; and it would be read anew for every call
        self._http.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=CONNECTIONS))

    def answer(self) -> str:
        response = self._http.post(self._url, json=self._body, timeout=LONGEST_SECONDS)
        response.raise_for_status()
        return str(response.json()["choices"][0]["message"]["content"])
