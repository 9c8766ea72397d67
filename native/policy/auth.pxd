cimport cython

from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.filter cimport Filter
from fastgw.limits.account cimport Account, Accounts

@cython.final
cdef class Auth(Filter):
    @cython.locals(accounts=Accounts, account=Account)
    cpdef on_head(self, Exchange exchange)
    @cython.locals(account=Account)
    cpdef on_route(self, Exchange exchange)
