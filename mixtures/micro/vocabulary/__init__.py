"""The micro collection's SentencePiece vocabulary and how it is made."""
