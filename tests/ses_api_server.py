"""A local stand-in for Amazon SES's API, version 2: real sockets, scripted misbehaviour, and a strict judge.

Left alone it verifies each request's signature (Signature Version 4) by botocore's own signer over what arrived, judges
the request by what the API reference says, and answers as SES does. A script says what it does instead.
"""

import base64
import re
from dataclasses import dataclass, field
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.mail_api_server import MailApi, Request, answer

KEY_ID, SECRET_KEY, REGION = "AKIDSG.test", "SG.test", "eu-west-1"
SEND, ACCOUNT = "/v2/email/outbound-emails", "/v2/email/account"
HEALTHY = {
    "EnforcementStatus": "HEALTHY",
    "ProductionAccessEnabled": True,
    "SendingEnabled": True,
    "SendQuota": {"Max24HourSend": 50_000.0, "MaxSendRate": 14.0, "SentLast24Hours": 1_234.0},
}


def refusal(status: int, code: str, message: str) -> bytes:
    """An error as SES tells one."""
    named = {"x_amzn_ErrorType": f"{code}:http://internal.amazon.com/coral/", "x_amzn_RequestId": "0b6d"}
    return answer(status, {"message": message}, **named)


@dataclass
class SesApi(MailApi):
    """The server, while it is entered. `account` is what GetAccount tells, or a whole answer."""

    account: dict[str, Any] | bytes = field(default_factory=lambda: dict(HEALTHY))
    refuses: dict[str, bytes] = field(default_factory=dict)  # answers by recipient
    mails: dict[str, bytes] = field(default_factory=dict)  # raw mails by delivery id

    @property
    def sent(self) -> list[Request]:
        """The requests to send that arrived, whole or not."""
        return [request for request in self.requests if request.path == SEND]

    def _usual(self, request: Request) -> bytes:
        if not signed(request):
            return refusal(403, "InvalidSignatureException", "The request signature we calculated does not match")
        if request.path == ACCOUNT:
            return self.account if isinstance(self.account, bytes) else answer(200, self.account)
        asked = request.json
        if wrong := violations(asked):
            return refusal(400, "BadRequestException", wrong)
        (recipient,) = asked["Destination"]["ToAddresses"]
        if recipient in self.refuses:
            return self.refuses[recipient]
        delivery = tags(asked)["delivery_id"]
        with self._lock:
            self.taken.append(delivery)
            self.mails[delivery] = base64.b64decode(asked["Content"]["Raw"]["Data"], validate=True)
            return answer(200, {"MessageId": f"0102018c-{len(self.taken):06}-000000"})


def tags(asked: Any) -> dict[str, str]:
    return {tag["Name"]: tag["Value"] for tag in asked["EmailTags"]}


def signed(request: Request) -> bool:
    """Whether a request carries the signature of our key over what arrived."""
    told = request.headers.get("authorization", "")
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/[^,]+, SignedHeaders=([a-z0-9;-]+), Signature=[0-9a-f]{64}", told
    )
    if not found or found[1] != KEY_ID:
        return False
    kept = {name: request.headers[name] for name in found[2].split(";")}
    again = AWSRequest(
        request.head.split(b" ", 1)[0].decode(), f"http://{kept['host']}{request.path}", kept, request.body
    )
    again.context["timestamp"] = kept["x-amz-date"]
    signer = SigV4Auth(Credentials(KEY_ID, SECRET_KEY), "ses", REGION)
    canonical = signer.canonical_request(again)
    return told.endswith(f"Signature={signer.signature(signer.string_to_sign(again, canonical), again)}")


def violations(asked: Any) -> str:
    """What SES would refuse, or do otherwise than is meant, in a sentence. Empty: nothing."""
    if set(asked) - {"ConfigurationSetName"} != {"FromEmailAddress", "Destination", "Content", "EmailTags"}:
        return "other parameters"
    if set(asked["Destination"]) != {"ToAddresses"} or len(asked["Destination"]["ToAddresses"]) != 1:
        return "not one recipient"
    if set(asked["Content"]) != {"Raw"} or not asked["Destination"]["ToAddresses"][0].isascii():
        return "Local address contains control or whitespace"
    if not all(re.fullmatch(r"[A-Za-z0-9_-]{1,256}", text) for tag in asked["EmailTags"] for text in tag.values()):
        return "Invalid tag"
    return "" if set(tags(asked)) == {"delivery_id", "attempt_id"} else "other tags"
