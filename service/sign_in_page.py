"""The page in place of a page, for a browser that has no key: it asks for one, and fetches with it what its address names.

A browser cannot be told to send a key with a link. So the key stays in the tab (sessionStorage, gone with the tab, seen by this origin
alone) and travels in the Authorization header of a fetch: never in an address, a cookie or a form. The page itself says nothing.
"""

import hashlib
from functools import cache
from html import escape

from service.figure_page import STYLE

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""As for the pages that it becomes, and it may ask its own service for them."""

SIGN_IN_SCRIPT = """const NAME = "snapcycle-api-key";
const form = document.querySelector("form");
const field = document.querySelector("input");
const notice = document.querySelector("output");

function load(source) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = source;
    script.onload = resolve;
    script.onerror = reject;
    document.body.append(script);
  });
}

// Of the answer only figures, their data and sentences are taken over, and scripts that this service names.
async function show(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  document.title = page.title;
  const parts = page.querySelectorAll("body > figure, body > p, body > script[type='application/json']");
  const sources = [...page.querySelectorAll("body > script[src^='/assets/']")].map((script) => script.getAttribute("src"));
  document.body.replaceChildren(...[...parts].map((part) => document.importNode(part, true)));
  for (const source of sources) await load(source);
}

async function open(key) {
  const headers = { Accept: "text/html", Authorization: `Bearer ${key}` };
  const answer = await fetch(location.href, { headers, cache: "no-store", credentials: "omit" });
  if (answer.ok) {
    sessionStorage.setItem(NAME, key);
    await show(await answer.text());
    return;
  }
  if (answer.status === 401) sessionStorage.removeItem(NAME);
  const problem = await answer.json();
  form.hidden = false;
  notice.textContent = problem.detail;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const key = field.value.trim();
  field.value = "";
  open(key).catch(() => (notice.textContent = "the service does not answer: try again"));
});

const kept = sessionStorage.getItem(NAME);
if (kept === null) form.hidden = false;
else open(kept).catch(() => (form.hidden = false));
"""

FORM = """<form hidden autocomplete="off"><h1>This page needs an API key</h1>
<p>The key stays in this tab, and is forgotten when you close it. It needs the scope <b>read</b>.</p>
<p><label>API key <input type="password" autocomplete="off" spellcheck="false" size="60" placeholder="sk_…" required autofocus></label>
<button>Open</button></p><p><output role="alert"></output></p></form>"""


@cache
def sign_in_path() -> str:
    """Where the script is served; the path changes with what is in it."""
    return f"/assets/sign-in-{hashlib.sha256(SIGN_IN_SCRIPT.encode()).hexdigest()[:12]}.js"


def sign_in_page() -> str:
    """The page; it is the same for every address."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>API key - snapcycle</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f'<body>{FORM}<script src="{escape(sign_in_path())}"></script></body></html>'
    )
