"""The outbox: a Maildir-like folder that takes one .eml a recipient.

For demonstrations, for proofs, for tests, and for handing mail to a program that picks it up. A copy is written to
`tmp/`, flushed to the disk and renamed into `new/` under its delivery id, so that a file in `new/` is always whole and
calling again under the same ids writes nothing twice: a copy that stands there (or in `cur/`, where mail clients move
what was read) was accepted before. Files are 0600, the folder 0700.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from newsletter.edition import AttemptId, Finding, Message, Receipt, Recipient, Result
from newsletter.errors import ProviderRefused
from newsletter.mime import HeaderError, Mould


class OutboxProvider:
    """A folder as a provider. Costs nothing, reaches nobody; safe from several threads and processes."""

    name = "outbox"
    idempotent = True
    live = False

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
        the whole batch is on the disk, since the folder's entries are flushed once.
        """
        mould = Mould(message)
        try:
            self._prepare()
        except OSError as error:
            raise ProviderRefused(self.name, _sentence(error, self.path)) from error
        started()
        receipts: list[Receipt] = []
        now = self._clock()
        fault: OSError | None = None
        for recipient in recipients:
            if fault is not None:
                receipts.append(Receipt(recipient.delivery, Result.NOT_TRIED, _sentence(fault, self.path)))
                continue
            try:
                self._write(recipient, mould, attempt, now)
            except HeaderError as error:
                receipts.append(Receipt(recipient.delivery, Result.REFUSED, str(error)))
            except OSError as error:
                fault = error
                receipts.append(Receipt(recipient.delivery, Result.NOT_TRIED, _sentence(fault, self.path)))
            else:
                receipts.append(Receipt(recipient.delivery, Result.ACCEPTED))
        if fault is not None and not any(receipt.result is Result.ACCEPTED for receipt in receipts):
            raise ProviderRefused(self.name, _sentence(fault, self.path)) from fault
        _flush_folder(self.path / "new")
        yield from receipts

    def file_of(self, recipient: Recipient) -> Path:
        """Where a recipient's copy stands once it is accepted."""
        return self.path / "new" / f"{recipient.delivery}.eml"

    def check(self) -> Sequence[Finding]:
        """Whether the folder can be written."""
        try:
            self._prepare()
            probe = self.path / "tmp" / f"check-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            return [Finding(ok=False, what=f"outbox: {_sentence(error, self.path)}")]
        return [Finding(ok=True, what=f"outbox {self.path} can be written; it reaches nobody")]

    def close(self) -> None:
        """Nothing is held open."""

    def _prepare(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in ("tmp", "new", "cur"):
            (self.path / part).mkdir(mode=0o700, exist_ok=True)

    def _write(self, recipient: Recipient, mould: Mould, attempt: AttemptId, now: datetime) -> None:
        target = self.file_of(recipient)
        if target.exists() or next((self.path / "cur").glob(f"{recipient.delivery}.eml*"), None):
            return
        data = mould.fill(recipient, now)
        draft = self.path / "tmp" / f"{recipient.delivery}.{attempt}"
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 # the mode
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(target)
        except OSError:
            draft.unlink(missing_ok=True)
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
