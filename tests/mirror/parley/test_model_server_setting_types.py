"""The settings about model servers beside each other and beside the environment; each alone is in test_settings.py."""

from pathlib import Path
from typing import Any

import certifi
import pytest

from parley.broker.core.errors import SettingsError
from parley.settings import load

AUTHORITIES = certifi.where()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vllm_url": "http://u:p@h", "vllm_api_key": "k"}, ("VLLM_API_KEY", "VLLM_URL", "authorization")),
        (
            {"vllm_url": "http://u:p@h", "vllm_headers": "authorization: x"},
            ("VLLM_URL", "PARLEY_VLLM_HEADERS"),
        ),
        ({"vllm_api_key": "k", "vllm_headers": "Authorization: x"}, ("VLLM_API_KEY", "PARLEY_VLLM_HEADERS")),
        (
            {"vllm_api_key": "k", "vllm_api_key_header": "api-key", "vllm_headers": "Api-Key: x"},
            ("VLLM_API_KEY", "PARLEY_VLLM_HEADERS", "api-key"),
        ),
    ],
)
def test_two_settings_for_one_header_are_named_both(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**settings)
    (problem,) = caught.value.problems
    assert all(word in problem for word in words)


@pytest.mark.parametrize(
    "settings",
    [
        {"vllm_url": "http://u:p@h", "vllm_api_key": "k", "vllm_api_key_header": "api-key"},
        {"vllm_url": "http://u:p@h", "vllm_headers": "X-Title: x"},
        {"vllm_headers": "Authorization: Token x"},
    ],
)
def test_different_headers_go_together(settings: dict[str, Any]) -> None:
    load(**settings)


@pytest.mark.parametrize("blank", ["", "  "])
def test_blank_is_unset(blank: str) -> None:
    settings = load(
        vllm_headers=blank, vllm_ca_file=blank, vllm_proxy=blank, vllm_omit=blank, vllm_rename=blank
    )
    assert settings.access == load().access


def test_the_common_ca_file_is_read_for_https_and_ours_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text, own = Path(AUTHORITIES).read_text(), tmp_path / "own.pem"
    end = "-----END CERTIFICATE-----"
    own.write_text(text.partition(end)[0] + end)
    monkeypatch.setenv("SSL_CERT_FILE", AUTHORITIES)
    assert load(vllm_url="https://h").access.certificates == text
    assert load(vllm_url="https://h", vllm_ca_file=str(own)).access.certificates == own.read_text()
    assert load(vllm_url="http://h").access.certificates is None
    assert load(vllm_url="http://h", vllm_proxy="https://proxy:3129").access.certificates == text


def test_a_wrong_common_ca_file_is_refused_by_name_where_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with pytest.raises(SettingsError, match="SSL_CERT_FILE: /no/such/file: No such file or directory"):
        load(vllm_url="https://h")
    load(vllm_url="http://h")
