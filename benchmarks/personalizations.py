"""A request to SendGrid for 1,000 people: built by us, and by the helper classes of SendGrid's own package.

Both give the same JSON, which is compared first. They take turns in one process.
"""

import json
import statistics
import time
from collections.abc import Callable
from html import escape
from typing import Any

from newsletter.edition import AttemptId, DeliveryId, Message, Recipient, Sender, spelling
from newsletter.providers.personalizations import build, forget

_NAMES = [
    "Ada Lovelace",
    "Jürgen Müller",
    None,
    "Anna Schmidt",
    "Tom & Ann",
    "李雷",
    "Pat O’Brien",
    "Bob",
    "María José",
]
_SENDER = Sender(
    "daily", "Bench", "b@news.example.org", None, "Bench", "daily.news.example.org", "https://news.example.org"
)


def _field(name: str, *, html: bool) -> str:
    return spelling("d4f0a1", name, html=html)


def _message() -> Message:
    """A digest of the usual size, with six fields."""
    html = "".join(f"<p>{_field(name, html=True)}</p>" for name in ("name", "leave_url", "preferences_url"))
    text = "\n".join(_field(name, html=False) for name in ("name", "leave_url", "preferences_url"))
    return Message(_SENDER, "Today in the news", html + "x" * 70_000, text + "y" * 8_000, "d4f0a1", "2026-11-23T07:00")


def _people() -> list[Recipient]:
    return [
        Recipient(
            DeliveryId(f"{n:024x}"), f"reader{n}@example.org", _NAMES[n % len(_NAMES)], f"Zn8-Pw9GfgHh_VIdJo{n:04}"
        )
        for n in range(1_000)
    ]


def _by_helper(message: Message, people: list[Recipient]) -> str:
    """The same request as the package's README builds it."""
    from sendgrid.helpers import mail as helper

    sender = message.sender
    made = helper.Mail()
    made.from_email = helper.From(sender.from_address, sender.from_name)
    made.subject = helper.Subject(message.subject)
    made.add_content(helper.Content("text/plain", message.text))
    made.add_content(helper.Content("text/html", message.html))
    made.add_header(helper.Header("List-Id", f"{sender.list_name} <{sender.list_id}>"))
    made.add_header(helper.Header("Feedback-ID", "2026-11-23T0700:daily:digest:news.example.org"))
    for name in (message.slot, sender.newsletter_id):  # it turns them round
        made.add_category(helper.Category(name))
    tracking = helper.TrackingSettings()
    tracking.click_tracking = helper.ClickTracking(enable=False, enable_text=False)
    tracking.open_tracking = helper.OpenTracking(enable=False)
    tracking.subscription_tracking = helper.SubscriptionTracking(enable=False)
    tracking.ganalytics = helper.Ganalytics(enable=False)
    made.tracking_settings = tracking
    for person in people:
        one = helper.Personalization()
        one.add_to(helper.To(person.address, person.name))
        values = person.values(sender)
        one.add_header(helper.Header("List-Unsubscribe", f"<{values['leave_url']}>"))
        one.add_header(helper.Header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"))
        for name in ("name", "leave_url", "preferences_url"):
            one.add_substitution(helper.Substitution(_field(name, html=False), values[name]))
            one.add_substitution(helper.Substitution(_field(name, html=True), escape(values[name])))
        one.add_custom_arg(helper.CustomArg("attempt_id", "a1"))
        one.add_custom_arg(helper.CustomArg("delivery_id", person.delivery))
        made.add_personalization(one)
    return json.dumps(made.get())


def _comparable(request: Any) -> Any:
    """Without the order of people, which the helper turns round."""
    return {
        **request,
        "personalizations": sorted(request["personalizations"], key=lambda p: p["custom_args"]["delivery_id"]),
    }


def build_requests(rounds: int = 25) -> tuple[float, float, float]:
    """Median milliseconds of a request for 1,000 people: ours cold, ours warm, the helper's. Raises where they differ.

    Cold is an edition's first request, for which what all copies share is made too. The helper has nothing to keep.
    """
    message, people = _message(), _people()
    ours, theirs = build(message, people, AttemptId("a1")).body, _by_helper(message, people)
    if _comparable(json.loads(ours)) != _comparable(json.loads(theirs)):
        raise ValueError("the two requests differ")
    things: list[Callable[[], object]] = [
        lambda: build(message, people, AttemptId("a1")),
        lambda: build(message, people, AttemptId("a1")),
        lambda: _by_helper(message, people),
    ]
    took: list[list[float]] = [[], [], []]
    for _ in range(rounds):
        forget()
        for index, thing in enumerate(things):
            start = time.perf_counter()
            thing()
            took[index].append((time.perf_counter() - start) * 1000)
    cold, warm, helper = map(statistics.median, took)
    return cold, warm, helper
