"""The web page: tabs, accounts, translations, and publishing it as a Space."""
