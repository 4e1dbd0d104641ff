"""The protective headers of every answer, also of errors and of pages."""

API_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of what is not a page: nothing of it may be run or shown inside another page."""

SECURITY_HEADERS: dict[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": API_POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What an answer has unless its route says otherwise: pages have a policy of their own, files that never change may be kept."""
