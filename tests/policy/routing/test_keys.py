"""By what a request is told to belong with others."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.policy.routing.keys import AGENTS, MOST_BYTES, Keys
from tests.policy.routing.test_strategies import Asked

BODY = b'{"messages":[{"role":"user","content":"user"}],"prompt_cache_key":"p","user":"u","model":"m","metadata":{"user":"no"}}'


@pytest.mark.parametrize(
    ("sources", "asked", "told"),
    [
        (("agents",), Asked(fields=b"Accept: */*\r\n"), None),
        (("agents", "body:prompt_cache_key", "body:user"), Asked(fields=b"Session-Id: c\r\n", body=BODY), b"c"),
        (("agents", "body:prompt_cache_key", "body:user"), Asked(body=BODY), b"p"),
        (("body:user", "body:prompt_cache_key"), Asked(body=BODY), b"u"),
        (("body:missing", "address"), Asked(body=BODY), b"127.0.0.1"),
        (("body:messages", "key"), Asked(body=BODY), None),  # no text; and there is no key
        (("body:user",), Asked(), None),
        (("header:X-Tenant", "header:x-user"), Asked(fields=b"x-user: b\r\nx-tenant: a\r\n"), b"a"),
        (("cookie:sid",), Asked(own={b"cookie": b"a=1; sid=s%20x; sidx=2"}), b"s%20x"),
        (("cookie:sid",), Asked(own={b"cookie": b"xsid=1; sid"}), None),
        (("cookie:sid",), Asked(), None),
        (("header:x-long", "address"), Asked(fields=b"x-long: " + b"a" * (MOST_BYTES + 1) + b"\r\n"), b"127.0.0.1"),
        (("body:user", "address"), Asked(body=b'{"user":"%b"}' % (b"a" * MOST_BYTES)), b"127.0.0.1"),
    ],
)
def test_the_first_source_that_says_something(sources: tuple[str, ...], asked: Any, told: bytes | None) -> None:
    assert Keys(sources).read(asked) == told


@pytest.mark.parametrize("name", AGENTS)
def test_each_agent_tells_its_session(name: bytes) -> None:
    assert Keys(("agents",)).read(Asked(fields=b"User-Agent: x\r\n%b: 0199\r\n" % name.title())) == b"0199"


TEXT = r'"a \"user\":\"other\" \\"'
PROMPTS = (
    f'"messages":[{{"role":"user","content":{TEXT},"user":"deep"}}]', f'"prompt":{TEXT}', f'"input":[{TEXT},"user"]',
    '"prompt":""',
)  # fmt: skip
FORMS = ('{"model":"m",P,"user":"me"}', '{"user":"me",P}', '{ P , "user" : "me" }', '{P,"\\u0075ser":"me"}')


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_member_is_found_on_either_side_of_the_prompt_and_not_in_it(prompt: str, form: str) -> None:
    asked: Any = Asked(body=form.replace("P", prompt).encode())
    assert Keys(("body:prompt_cache_key", "body:user")).read(asked) == b"me"
    none: Any = Asked(body=form.replace("P", prompt).replace('"me"', "7").encode())
    assert Keys(("body:user", "key")).read(none) is None
