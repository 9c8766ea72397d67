"""Answers for what fastgw is made of: floors, pinned and hashed versions, licences, known vulnerabilities, the tree itself.

``make audit`` runs it (``python -m scripts.audit``), ``make lock`` writes what it checks (``python -m scripts.audit.resolve``).
What is judged by which rule stands in :mod:`scripts.audit.rules`, and nowhere else.
"""
