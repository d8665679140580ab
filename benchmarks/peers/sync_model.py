"""The model call of a synchronous task: the library requests, with connections that are kept."""

import requests
from requests.adapters import HTTPAdapter

from benchmarks.question import MODEL, TEMPERATURE, prompt

# More than the calls of one worker process at a time.
CONNECTIONS = 256
LONGEST_SECONDS = 30.0


class Model:
    """One session for all threads of a process: its connection pool is thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._body = {"model": MODEL, "messages": list(prompt()), "temperature": TEMPERATURE}
        self._http = requests.Session()
        self._http.trust_env = False  # as `ModelClient`; else requests reads the environment for every call
        self._http.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=CONNECTIONS))

    def answer(self) -> str:
        response = self._http.post(self._url, json=self._body, timeout=LONGEST_SECONDS)
        response.raise_for_status()
        return str(response.json()["choices"][0]["message"]["content"])
