"""Paths that are no text never reach the app: Envoy refuses them.

pyvoy 1.3 decodes a path before it calls the app. One whose ``%`` escapes are not UTF-8
fails there, in a callback of the event loop, and its client would wait for ever.
"""

from __future__ import annotations

from typing import Any, Final

_API: Final = "type.googleapis.com/envoy.extensions.filters.http"
_NEXT: Final = "%[89ABab][0-9A-Fa-f]"
TEXT: Final = (
    "(?:[^%]|%[^89A-Fa-f]"
    f"|%(?:[Cc][2-9A-Fa-f]|[Dd][0-9A-Fa-f]){_NEXT}"
    f"|%[Ee]0%[ABab][0-9A-Fa-f]{_NEXT}"
    f"|%[Ee](?:[1-9ABCEFabcef]{_NEXT}|[Dd]%[89][0-9A-Fa-f]){_NEXT}"
    f"|%[Ff]0%[9ABab][0-9A-Fa-f]{_NEXT}{_NEXT}"
    f"|%[Ff][1-3]{_NEXT}{_NEXT}{_NEXT}"
    f"|%[Ff]4%8[0-9A-Fa-f]{_NEXT}{_NEXT})*%?"
)
"""What the path of a request must match in full: escapes that spell UTF-8."""


ALLOWED_SIZE: Final = {"re2.max_program_size.error_level": 2000}
"""Setting of Envoy's without which it takes no regular expression of this length."""


def refuse_other_paths(manager: dict[str, Any]) -> None:
    """Have a connection manager answer paths that are no text with 400.

    Args:
        manager: Its configuration; changed.
    """
    match = {"safe_regex": {"regex": TEXT}}
    manager["http_filters"].insert(
        0,
        {
            "name": "paths",
            "typed_config": {
                "@type": f"{_API}.rbac.v3.RBAC",
                "rules": {
                    "action": "DENY",
                    "policies": {
                        "no text": {
                            "permissions": [{"not_rule": {"url_path": {"path": match}}}],
                            "principals": [{"any": True}],
                        }
                    },
                },
            },
        },
    )
    # Envoy's own answer would be 403; no answer of the app is for such a path.
    path = f"(?:{TEXT})(?:[?#].*)?"
    manager["local_reply_config"] = {
        "mappers": [
            {
                "filter": {
                    "header_filter": {
                        "header": {
                            "name": ":path",
                            "string_match": {"safe_regex": {"regex": path}},
                            "invert_match": True,
                        }
                    }
                },
                "status_code": 400,
                "body": {"inline_string": '{"error":"the path is not UTF-8"}'},
                "body_format_override": {
                    "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"},
                    "content_type": "application/json",
                },
            }
        ]
    }
