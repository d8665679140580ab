"""What a server's error is: by its codes, then by its words; in a refusal and inside an answer."""

import json
from typing import Any

import pytest

from parley.broker.core.agent_error_table import Signal
from parley.broker.core.messages import ErrorType
from parley.workers.model.error_body import error_in_text, error_text, error_within, refusal
from parley.workers.model.model_error import MAX_ERROR_CHARACTERS
from tests import present

CONTEXT, BAD, LIMITED = ErrorType.CONTEXT_TOO_LONG, ErrorType.BAD_REQUEST, ErrorType.RATE_LIMITED
SERVER, KEY, MODEL = ErrorType.SERVER_ERROR, ErrorType.UNAUTHORIZED, ErrorType.MODEL_NOT_FOUND


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 429, "message": "slow down"}, LIMITED),
        ({"code": "429", "message": "slow down"}, LIMITED),
        ({"code": "rate_limit_exceeded"}, LIMITED),
        ({"type": "rate_limit_error"}, LIMITED),
        ({"type": "insufficient_quota", "code": "insufficient_quota"}, LIMITED),
        ({"status": "RESOURCE_EXHAUSTED", "message": "quota"}, LIMITED),
        ({"type": "tokens", "code": "rate_limit_exceeded"}, LIMITED),
        ({"status": 503}, SERVER),
        ({"type": "overloaded_error"}, SERVER),
        ({"type": "InternalServerError"}, SERVER),
        ({"code": 400, "type": "BadRequestError"}, BAD),
        ({"type": "invalid_request_error", "param": "stop"}, BAD),
        ({"status": "INVALID_ARGUMENT", "code": 400}, BAD),
        ({"code": "content_filter", "status": 400}, BAD),
        ({"code": 401}, KEY),
        ({"code": "invalid_api_key"}, KEY),
        ({"type": "permission_error"}, KEY),
        ({"code": 404}, MODEL),
        ({"code": "model_not_found"}, MODEL),
        ({"code": "context_length_exceeded", "type": "invalid_request_error"}, CONTEXT),
        ({"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 9_000, "n_ctx": 4_096}, CONTEXT),
        ({"code": 400, "message": "This model's maximum context length is 4096 tokens."}, CONTEXT),
        ({"code": 413}, CONTEXT),
        ({"message": "Provider returned error", "code": 502}, SERVER),
        ({"code": 400, "message": "Provider returned error", "metadata": {"raw": "maximum context length"}}, CONTEXT),
        ("engine died", SERVER),
        (["engine died"], SERVER),
        ([{"code": 429}], LIMITED),
        ({"error": {"code": 429}}, LIMITED),
        ("Too Many Requests", LIMITED),
        ({"code": 429.0}, LIMITED),
        ("Incorrect API key provided: xa***ey.", KEY),
        ({"message": "", "type": "", "param": "", "code": None}, None),  # new-api and others in Go
        ([{}], None),
        ({}, None),
        (None, None),
        ("", None),
        ([], None),
        (False, None),
    ],
)  # fmt: skip
def test_an_error_inside_an_answer_counts_as_its_status_would(error: Any, kind: ErrorType | None) -> None:
    found = error_within({"error": error, "choices": [{"message": {"content": "x"}}]})
    assert (found.error_type if found is not None else None) == kind


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"object": "error", "message": "too many tokens", "code": 400}, CONTEXT),
        ({"object": "error", "message": "no", "type": "NotFoundError", "code": 404}, MODEL),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, SERVER),
        ({"detail": "Not authenticated", "status": 401}, KEY),
        ({"detail": [{"msg": "field required", "type": "missing"}]}, SERVER),
        ({"message": "no healthy upstream", "code": 503}, SERVER),
        ({"errors": [{"code": 429, "message": "no"}]}, LIMITED),
        ({"error": True, "message": "slow down", "statusCode": 429}, LIMITED),
        ({"error": "no", "error_type": "overloaded"}, SERVER),
        ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, SERVER),
        ({"choices": None, "base_resp": {"status_code": 0, "status_msg": ""}}, None),
        ({"code": 429, "msg": "slow down", "success": False}, LIMITED),
        ({"error_code": 429, "error_msg": "slow down"}, LIMITED),
        ({"choices": [], "usage": {}}, None),
        ({"choices": [{}], "message": "a word beside the answer"}, None),
    ],
)
def test_an_error_in_another_form(body: dict[str, Any], kind: ErrorType | None) -> None:
    found = error_within(body)
    assert (found.error_type if found is not None else None) == kind


# (server, status, body): as they were seen in documentation and public bug reports.
TOO_LONG: list[tuple[str, int, Any]] = [
    ("vLLM", 400, "This model's maximum context length is 2048 tokens. However, you requested 2100 tokens"),
    ("vLLM", 400, "The decoder prompt (length 9000) is longer than the maximum model length of 4096."),
    ("vLLM", 400, ("'max_tokens' or 'max_completion_tokens' is too large: 500. This model's maximum context length is "
        "2048 tokens and your request has 1900 input tokens (500 > 2048 - 1900).")),
    ("SGLang", 400, "The input (9000 tokens) is longer than the model's context length (4096 tokens)."),
    ("SGLang", 400, "Requested token count exceeds the model's maximum context length of 4096 tokens."),
    ("TGI", 422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000",
        "error_type": "validation"}),
    ("TGI", 422, {"error": "Input validation error: `inputs` must have less than 4095 tokens. Given: 9000 (prompt is too "
        "long)"}),
    ("llama.cpp", 400, {"error": {"code": 400, "type": "exceed_context_size_error",
        "message": "the request exceeds the available context size. try increasing the context size"}}),
    ("llama.cpp", 500, "context size exceeded"),
    ("Ollama", 500, "input length exceeds the context length"),
    ("LM Studio", 400, ("Trying to keep the first 9000 tokens when context overflows. The model is loaded with context "
        "length of only 4096 tokens")),
    ("OpenAI", 400, {"error": {"code": "context_length_exceeded", "type": "invalid_request_error", "message": "no"}}),
    ("OpenAI", 400, {"error": {"code": "string_above_max_length", "message": "Invalid 'messages[0].content'"}}),
    ("Gemini", 400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT",
        "message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."}}]),
    ("Mistral", 400, {"object": "error", "type": "invalid_request_message_order",
        "message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"}),
    ("Groq", 413, "Request too large for model"),
    ("Groq", 400, "Please reduce the length of the messages or completion."),
    ("Anthropic", 400, {"type": "error", "error": {"type": "invalid_request_error",
        "message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
    ("LiteLLM", 400, {"error": {"message": "litellm.ContextWindowExceededError: no", "code": "400"}}),
    ("Kimi", 400, "Invalid request: Your request exceeded model token limit: 8192"),
    ("Copilot", 400, {"error": {"code": "model_max_prompt_tokens_exceeded", "message": "no"}}),
    ("DashScope", 400, "Range of input length should be [1, 30720]"),
    ("TabbyAPI", 400, {"detail": "Prompt length 9000 is greater than max_seq_len 4096"}),
    ("Bedrock", 400, {"message": "Input is too long for requested model."}),
    ("nginx", 413, b"<html>Request Entity Too Large</html>"),
    ("nginx", 413, "Request Entity Too Large"),
    ("TGI", 422, {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 3000"}),
    ("GitHub Models", 413, {"error": {"code": "tokens_limit_reached", "message": "Max size: 8000 tokens."}}),
    ("llama.cpp", 500, "llama_decode: failed to decode, n_ctx too small"),
    ("another", 400, "Prompt has 9000 tokens, limit is 4096"),
    ("another", 400, "Content too long"),
    ("another", 400, "Token limit exceeded"),
    ("another", 400, "Sequence length (5000) > max (4096)"),
    ("another", 400, "Please shorten your prompt"),
    ("another", 400, "The conversation exceeds the limit of 4096 tokens"),
    ("another", 400, "Your messages have 9000 tokens; at most 4096 are allowed"),
    ("another", 400, {"error": {"code": "token_limit_exceeded", "message": "no"}}),
    ("another", 400, {"error": {"code": "content_too_long", "message": "no"}}),
    ("another", 400, {"error": {"code": "too_many_tokens", "message": "no"}}),
    ("another", 400, {"error": {"code": "request_entity_too_large", "message": "no"}}),
    ("another", 400, {"error": {"type": "InputTooLargeError", "message": "no"}}),
    ("another", 400, {"error": {"code": "prompt_tokens_exceeded", "message": "no"}}),
    ("another", 400, {"error": {"code": "CONTEXT_LIMIT_REACHED", "message": "no"}}),
]  # fmt: skip


@pytest.mark.parametrize(("server", "status", "body"), TOO_LONG)
def test_a_prompt_that_is_too_long_is_told_in_many_words(server: str, status: int, body: Any) -> None:
    message = {"error": {"message": body}} if isinstance(body, str) else body
    error = refusal(status, message if isinstance(message, bytes) else json.dumps(message).encode())
    assert error.error_type is CONTEXT, server
    assert error.signal is Signal.ALIVE  # a caller's prompt opens no breaker


@pytest.mark.parametrize(
    ("server", "body"), [(server, body) for server, _, body in TOO_LONG if not isinstance(body, bytes)]
)
def test_a_prompt_that_is_too_long_is_told_inside_an_answer_too(server: str, body: Any) -> None:
    (message,) = body if isinstance(body, list) else [body]
    error = error_within({"error": {"message": message}} if isinstance(message, str) else message)
    assert error is not None
    assert error.error_type is CONTEXT, server
    if isinstance(message, str):
        assert present(error_within({"error": message})).error_type is CONTEXT, server


# (error, type, status): what an error inside an answer says of its status in words.
IN_WORDS: list[tuple[Any, ErrorType, int | None]] = [
    ({"message": "429 Too Many Requests"}, LIMITED, 429),
    ({"message": "HTTP 429: slow"}, LIMITED, 429),
    ("Error code: 429 - slow", LIMITED, 429),
    ("[429] slow", LIMITED, 429),
    ("Request failed with status code 429", LIMITED, 429),
    ({"code": "rate_limited"}, LIMITED, 429),
    ({"code": "ThrottlingException"}, LIMITED, 429),
    ({"code": "tokens_per_minute_limit_exceeded"}, LIMITED, 429),
    ({"message": "Rate limit reached for model"}, LIMITED, 429),
    ({"message": "Rate limit exceeded: 9000 input tokens exceed the limit of 4000 per minute"}, LIMITED, 429),
    ({"message": "You exceeded your current quota"}, LIMITED, 429),
    ({"message": "you are being rate limited"}, LIMITED, 429),
    ({"message": "Too many concurrent requests"}, LIMITED, 429),
    ({"message": "Request too large for model on tokens per minute (TPM): Limit 6000"}, LIMITED, 429),
    ({"message": "503 Service Unavailable"}, SERVER, 503),
    ({"message": "HTTP/1.1 502 Bad Gateway"}, SERVER, 502),
    ({"message": "HTTP 401 Unauthorized"}, KEY, 401),
    ({"message": "404 page not found"}, MODEL, 404),
    ({"message": "400 Bad Request"}, BAD, 400),
    ({"message": "HTTP 400: prompt is too long"}, CONTEXT, 400),
    ({"code": 500, "message": "429 Too Many Requests"}, SERVER, 500),
    ({"message": "500 tokens could not be written"}, SERVER, None),
    ({"message": "404.5 ms are too few"}, SERVER, None),
    ({"message": "the engine died after 429 requests"}, SERVER, None),
    ({"message": "Too many tokens, please wait before trying again."}, SERVER, None),
    ({"message": "context deadline exceeded"}, SERVER, None),
    ({"message": "The request took too long"}, SERVER, None),
    ({"message": "Response body is too large"}, SERVER, None),
    ("queue: the request limit of workers was hit", SERVER, None),
]


@pytest.mark.parametrize(("error", "kind", "status"), IN_WORDS)
def test_an_error_inside_an_answer_tells_its_status_in_words(
    error: Any, kind: ErrorType, status: int | None
) -> None:
    found = present(error_within({"error": error}))
    assert (found.error_type, found.status) == (kind, status)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Too Many Requests\n", LIMITED),
        ("Internal Server Error", SERVER),
        ("HTTP 401", KEY),
        ("This model's maximum context length is 4096 tokens.", CONTEXT),
        ("hello", None),
        ("", None),
    ],
)
def test_a_text_in_place_of_an_answer_may_tell_an_error(text: str, kind: ErrorType | None) -> None:
    found = error_in_text(text)
    assert (found.error_type if found is not None else None) == kind


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (429, "Rate limit reached: maximum context length of your plan", LIMITED),
        (401, "context length", KEY),
        (404, "no model with this context length", MODEL),
        (422, "temperature: Input should be less than or equal to 2", BAD),
        (400, "max_tokens is too large: 9000. This model supports at most 4096 completion tokens", BAD),
        (400, "max_tokens=9000 cannot be greater than max_model_len=max_total_tokens=2048.", BAD),
        (400, "Unrecognized request argument: context", BAD),
        (400, "stop: at most 4 sequences", BAD),
        (304, "", ErrorType.MALFORMED_ANSWER),
        (400, "Input should be greater than or equal to 1", BAD),
        (400, "Input 'seed' is greater than maximum 2147483647", BAD),
        (400, "stop: sequence is too long (max 16 characters)", BAD),
        (400, "Invalid input length: messages must not be empty", BAD),
        (400, "Unsupported: input_value={'messages': [{'content': 'how long is the context window?'}]}", BAD),
        (400, "[{'loc': ('body', 'temperature'), 'input': {'messages': 'maximum context length'}}]", BAD),
        (400, "Your request has been flagged: the input exceeds a safety threshold", BAD),
        (400, "too many tokens per minute", BAD),
        (400, "the messages have more than 5 images: input too large", BAD),
        (400, "Invalid model output: tool call", BAD),
        (400, "Invalid model name passed in model=foo", MODEL),
        (400, "The input is too long: cannot allocate KV blocks", CONTEXT),
        (400, "Model Not Exist", MODEL),
        (400, "foo/bar is not a valid model ID", MODEL),
        (400, "the answer of the model is not found", BAD),
        (400, "API key not valid. Please pass a valid API key.", KEY),
        (424, "Request failed during generation: Server error: CUDA", SERVER),
        (498, "Flex tier capacity exceeded", SERVER),
        (500, "CUDA out of memory: lower max_model_len, the input exceeds what is free", SERVER),
        (500, "failed to allocate a KV cache for n_ctx = 131072", SERVER),
        (500, "input processing exceeded its timeout", SERVER),
        (500, "CUDA out of memory", SERVER),
        (503, "the queue is too long", SERVER),
        (500, "The request took too long", SERVER),
        (500, "Message queue is too large", SERVER),
        (500, "Failed to decode content: text is longer than its buffer", SERVER),
        (500, "Sequence group is preempted: more than 50 times", SERVER),
        (500, "KV cache is full: no room for a sequence of 5000 tokens, max 4096 blocks", SERVER),
        (500, "Response content too large", SERVER),
        (429, "Token limit exceeded", LIMITED),
        (400, "Your request has 9000 tokens, limit is 4000 per minute", BAD),
        (418, "", BAD),
    ],
)
def test_other_refusals_keep_their_cause(status: int, text: str, kind: ErrorType) -> None:
    assert refusal(status, json.dumps({"error": {"message": text}}).encode()).error_type is kind


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (
            {
                "code": "string_above_max_length",
                "param": "stop",
                "message": "Invalid 'stop': string too long.",
            },
            BAD,
        ),
        (
            {"detail": [{"loc": ["body", "n"], "msg": "no", "input": {"messages": ["the context window"]}}]},
            BAD,
        ),
        ({"param": "stop", "message": "Sequence is too long"}, BAD),
        ({"finish": "stop", "message": "The prompt is too long"}, CONTEXT),
        ({"type": "invalid_model", "message": "no", "code": "1500"}, MODEL),
        ({"error": {"code": "invalid_api_key", "message": "no"}}, KEY),
        ({"error": {"code": "string_too_long", "message": "Invalid 'stop'"}}, BAD),
        ({"error": {"code": "daily_token_limit_exceeded", "message": "no"}}, BAD),
    ],
)
def test_a_code_or_a_quoted_request_decides_only_what_it_is_about(
    body: dict[str, Any], kind: ErrorType
) -> None:
    assert refusal(400, json.dumps(body).encode()).error_type is kind


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"error": {"message": "m"}}, "m"),
        ({"error": "m"}, "m"),
        ({"error": ["m"]}, "m"),
        ([{"error": {"message": "m"}}], "m"),
        ({"detail": "m"}, "m"),
        ({"detail": [{"msg": "m"}]}, "m"),
        ({"error": {"error": {"message": "m"}}}, "m"),
        ({"error": True, "message": "m"}, "m"),
        ({"error": {"kind": 5}}, '{"kind": 5}'),
        ({"error": {"message": "half \ud83d a pair"}}, "half ? a pair"),
    ],
)
def test_the_servers_words_are_found(answer: Any, text: str) -> None:
    assert error_text(answer) == text


def test_a_refusal_that_quotes_the_whole_prompt_is_cut_short() -> None:
    error = refusal(400, json.dumps({"error": {"message": "prompt " * 10_000}}).encode())
    assert len(str(error)) < MAX_ERROR_CHARACTERS + 100
