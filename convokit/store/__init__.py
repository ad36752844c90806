"""Every SQL statement of the library, as plain functions over a `Connection`.

A function that takes a connection neither begins nor commits: it runs in whatever transaction the caller holds, the driver's
or a host application's own.
"""
