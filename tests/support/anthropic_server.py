"""A server on a local port that speaks Anthropic's Messages API as a script says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Response = tuple[int, Mapping[str, str], Mapping[str, Any]]

_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class Request(NamedTuple):
    """A request that came in; header names are in lower case."""

    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        """The text blocks of the user's turn."""
        content = self.body["messages"][0]["content"]
        return [content] if isinstance(content, str) else [b["text"] for b in content]


class AnthropicServer:
    """Answers each request with the next scripted response, then with `Hello`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._responses: list[Response] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """What to give as `base_url` or `ANTHROPIC_BASE_URL`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def says(
        self,
        text: str | None,
        *,
        stop_reason: str = "end_turn",
        output_tokens: int = 5,
    ) -> None:
        """Answer with a text, or with no content at all."""
        self._responses.append((200, {}, message(text, stop_reason, output_tokens)))

    def judges(self, passed: bool, feedback: str = "", **changes: Any) -> None:
        """Answer with a structured verdict."""
        verdict = {
            "passed": passed,
            "confidence": 0.9,
            "feedback": feedback,
            "issues": [] if passed else ["an issue"],
        }
        self.says(json.dumps(verdict | changes))

    def fails(
        self, error_type: str, *, status: int | None = None, retry_after: str | None = None
    ) -> None:
        """Answer with an error."""
        body = {
            "type": "error",
            "error": {"type": error_type, "message": f"scripted {error_type}"},
            "request_id": "req_scripted",
        }
        headers = {} if retry_after is None else {"retry-after": retry_after}
        found = _STATUS_OF_TYPE.get(error_type, 500) if status is None else status
        self._responses.append((found, headers, body))

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: Request) -> Response:
        with self._lock:
            self.requests.append(request)
            if self._responses:
                return self._responses.pop(0)
        return 200, {}, message("Hello", "end_turn", 5)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                size = int(self.headers.get("content-length", "0"))
                body = json.loads(self.rfile.read(size))
                headers = {name.lower(): value for name, value in self.headers.items()}
                if self.path.partition("?")[0] != "/v1/messages":
                    self._send(404, {}, {"type": "error", "error": {"type": "not_found"}})
                    return
                self._send(*server._answer(Request(headers, body)))

            def _send(
                self, status: int, headers: Mapping[str, str], body: Mapping[str, Any]
            ) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.send_header("request-id", "req_scripted")
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler


def message(text: str | None, stop_reason: str, output_tokens: int) -> dict[str, Any]:
    """Return a message as the API sends it."""
    content = [] if text is None else [{"type": "text", "text": text}]
    return {
        "id": "msg_scripted",
        "type": "message",
        "role": "assistant",
        "model": "claude-scripted",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": output_tokens},
    }


@contextmanager
def running_server() -> Iterator[AnthropicServer]:
    """Run a server for the length of the block."""
    server = AnthropicServer()
    try:
        yield server
    finally:
        server.close()
