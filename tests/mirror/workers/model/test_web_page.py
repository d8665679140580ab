"""A web page is told from an answer by its beginning."""

import time

import pytest

from parley.workers.model.web_page import is_web_page, page_title


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><html>", b"  \r\n<html lang='en'>", b"\xef\xbb\xbf<!doctype HTML>", b"<!-- a --> <!-- b -->\n<html>",
        b"<head>", b"<body class='x'>", b"<HTML>",
    ],
)  # fmt: skip
def test_these_are_web_pages(body: bytes) -> None:
    assert is_web_page(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"data: <html>",
        b'"<html>"',
        b"<answer>42</answer>",
        b"<?xml version='1.0'?><a/>",
        b"<htmlx>",
    ],
)
def test_these_are_not(body: bytes) -> None:
    assert not is_web_page(body)


def test_a_server_that_says_so_is_believed_if_it_looks_like_it() -> None:
    assert is_web_page(b"<h1>Hello</h1>", "text/html; charset=utf-8")
    assert not is_web_page(b'{"choices": []}', "text/html")


def test_blanks_without_end_take_no_time() -> None:
    began = time.monotonic()
    assert not is_web_page(b" " * 10_000_000)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("body", "title"),
    [
        (b"<html><title>Open  WebUI\n</title>", ' "Open WebUI"'),
        (b"<title class=x>502 &amp; more</TITLE>", ' "502 & more"'),
        (b"<html>", ""),
        (b"<title></title>", ""),
        (b"<title>" + b"x" * 200 + b"</title>", f' "{"x" * 80}"'),
    ],
)
def test_a_page_is_named_by_its_title(body: bytes, title: str) -> None:
    assert page_title(body) == title
