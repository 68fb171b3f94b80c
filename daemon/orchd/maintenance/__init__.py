"""What watches over a state and mends it: replay, verification, copies, examinations.

Everything here is synchronous and works on a database URL. What only reads may run beside
a daemon. SQLAlchemy is imported by the modules here, so import them where they are used.
"""
