"""`make faults`: real dispatches, killed and hindered wherever they can be, and then held against what arrived.

An edition goes out to thousands of people as a process of its own (`newsletter send`), through a provider's protocol on
a real socket or into an outbox, over a real database. It is killed with SIGKILL again and again, at random instants or
at a named moment, and started again until the edition is closed. Then what the server took is compared with what the
ledger says, person by person (`faults.judging`). Nothing in the product knows of it: the servers pull the trigger, or a
child process wraps public functions before it runs the command (`faults.wrapped`).

Linux only: a process is held by its pidfd, so that nobody else is ever killed.
"""
