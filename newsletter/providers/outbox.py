"""The outbox: a Maildir-like folder that takes one .eml a recipient.

For demonstrations, for proofs, for tests, and for handing mail to a program that picks it up. A copy is written to
`tmp/`, flushed to the disk and renamed into `new/` under its delivery id, so that a file in `new/` is always whole and
calling again under the same ids writes nothing twice: a copy that stands there (or in `cur/`, where mail clients move
what was read) was accepted before. Files are 0600, the folders it makes 0700.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from newsletter.edition import AttemptId, DeliveryId, Event, Finding, Message, Receipt, Recipient, Result
from newsletter.errors import OutcomeUnknown, ProviderRefused, WebhookRejected
from newsletter.mime import HeaderError, Mould

_ABANDONED = timedelta(hours=36)  # as maildir(5): a draft that old is what a killed process left behind


class OutboxProvider:
    """A folder as a provider. Costs nothing, reaches nobody; safe from several threads and processes."""

    name = "outbox"
    idempotent = True
    live = False
    atomic = False

    def __init__(
        self, path: Path, *, batch_size: int = 500, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.path = path
        self.batch_size = batch_size
        self._clock = clock

    def submit(
        self, message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
    ) -> Iterator[Receipt]:
        """Write one file a recipient. Raises ProviderRefused where the folder takes none at all.

        Where the disk fills up half-way, those written are accepted and the rest has not been tried. Receipts come when
        the whole batch is on the disk, since the folder's entries are flushed once; OutcomeUnknown where that fails.
        """
        mould, standing = self._open(message, recipients)
        if recipients:
            started()
        receipts: list[Receipt] = []
        now = self._clock()
        fault: OSError | None = None
        for recipient in recipients:
            if recipient.delivery in standing:
                receipts.append(Receipt(recipient.delivery, Result.ACCEPTED))
                continue
            if fault is not None:
                receipts.append(Receipt(recipient.delivery, Result.NOT_TRIED, _sentence(fault, self.path)))
                continue
            try:
                self._write(recipient, mould.fill(recipient, now), attempt)
            except HeaderError as error:
                receipts.append(Receipt(recipient.delivery, Result.REFUSED, str(error)))
            except OSError as error:
                fault = error
                receipts.append(Receipt(recipient.delivery, Result.NOT_TRIED, _sentence(fault, self.path)))
            else:
                receipts.append(Receipt(recipient.delivery, Result.ACCEPTED))
        if fault is not None and not any(receipt.result is Result.ACCEPTED for receipt in receipts):
            raise ProviderRefused(self.name, _sentence(fault, self.path)) from fault
        try:
            _flush_folder(self.path / "new")
        except OSError as error:
            raise OutcomeUnknown(self.name, _sentence(error, self.path)) from error
        yield from receipts

    def events(self, headers: Mapping[str, str], body: bytes) -> Sequence[Event]:  # noqa: ARG002 # whatever it is
        """A folder tells nothing later."""
        raise WebhookRejected(self.name, "a folder has no webhook")

    def file_of(self, recipient: Recipient) -> Path:
        """Where a recipient's copy stands once it is accepted."""
        return self.path / "new" / f"{recipient.delivery}.eml"

    def check(self) -> Sequence[Finding]:
        """Whether the folder can be written."""
        try:
            self._prepare()
            for part in ("tmp", "new"):
                with tempfile.NamedTemporaryFile(dir=self.path / part, prefix=".check-"):
                    pass
        except OSError as error:
            return [Finding(ok=False, what=f"outbox: {_sentence(error, self.path)}")]
        return [Finding(ok=True, what=f"outbox {self.path} can be written; it reaches nobody")]

    def close(self) -> None:
        """Nothing is held open."""

    def _open(self, message: Message, recipients: Sequence[Recipient]) -> tuple[Mould, frozenset[DeliveryId]]:
        """Whatever can be wrong for everybody. Gives the mould and whose copies stand already."""
        try:
            self._prepare()
            return Mould(message), self._standing(recipients)
        except HeaderError as error:
            raise ProviderRefused(self.name, str(error)) from error
        except OSError as error:
            raise ProviderRefused(self.name, _sentence(error, self.path)) from error

    def _prepare(self) -> None:
        """Make the folders where they are missing, and remove drafts that no living process can be writing."""
        for folder in (self.path, self.path / "tmp", self.path / "new", self.path / "cur"):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _flush_folder(folder.parent)
        oldest = time.time() - _ABANDONED.total_seconds()  # the file system's clock, whatever the newsletter's says
        for draft in (self.path / "tmp").iterdir():
            with suppress(FileNotFoundError):  # another thread's, renamed meanwhile
                if draft.lstat().st_mtime < oldest:
                    draft.unlink()

    def _standing(self, recipients: Sequence[Recipient]) -> frozenset[DeliveryId]:
        """Whose copies an earlier call wrote. `cur/` is read after `new/`, so that none is missed on its way there."""
        new = {recipient.delivery for recipient in recipients if self.file_of(recipient).exists()}
        with os.scandir(self.path / "cur") as entries:  # flags may follow: ID.eml:2,S
            cur = {DeliveryId(entry.name.partition(".")[0]) for entry in entries}
        return frozenset(new | cur)

    def _write(self, recipient: Recipient, data: bytes, attempt: AttemptId) -> None:
        # mkstemp opens 0600, and a name that no other thread has.
        descriptor, draft = tempfile.mkstemp(dir=self.path / "tmp", prefix=f"{recipient.delivery}.{attempt}.")
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 # a descriptor is no path
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.rename(draft, self.file_of(recipient))  # noqa: PTH104 # mkstemp gives the path as a str
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sentence(error: OSError, folder: Path) -> str:
    return f"{folder}: {error.strerror or type(error).__name__}"
