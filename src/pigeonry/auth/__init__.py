"""Who is asking? Keys and logins, answered from memory, and the register that they are written in.

Depends on Identity alone (invariant I6): what is in memory goes on working while Identity cannot be reached.
"""
