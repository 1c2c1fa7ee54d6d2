"""Compile a news desk's briefs into an e-mail digest, and see it into every recipient's hands, once.

`Newsroom` is the door for programs (`from newsletter.newsroom import Newsroom`), the command
`newsletter` the one for people. Importing this package loads nothing else.
"""

__version__ = "0.1.0"
