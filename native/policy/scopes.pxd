cimport cython

from fastgw.accel.lines cimport limit_lines
from fastgw.exchange.context cimport Context
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.state cimport model_of
from fastgw.limits.account cimport Account, Accounts
from fastgw.limits.meter cimport Meter
from fastgw.limits.purse cimport Purse
from fastgw.limits.scope cimport Scope, Share
from fastgw.limits.scopes cimport Model, Scopes
from fastgw.net.clock cimport micros
from fastgw.upstream.table cimport UpstreamTable

@cython.locals(gateway=Context, scopes=Scopes, model=str, found=tuple)
cpdef tuple shares_of(Exchange exchange, Account account)
@cython.locals(table=UpstreamTable, asked=str)
cdef str _model(Exchange exchange, Account account)
@cython.locals(models=dict, name=str, found=Model, model=Model)
cdef str _unnamed(Exchange exchange, object names)
@cython.locals(share=Share)
cpdef bint limits_tokens(tuple shares) except -1
@cython.locals(share=Share, day=Purse)
cpdef long day_left(tuple shares, long long today, long long left) except? -2
@cython.locals(share=Share, tokens=Meter)
cpdef long minute_left(tuple shares, long long now_us, long long left) except? -2
@cython.locals(share=Share, requests=Meter, of_tokens=Meter)
cpdef tell(Exchange exchange, Account account, long long now_us, bint tokens)
cdef Meter _tighter(Meter one, Meter other, long long now_us)
@cython.locals(lines=bytes)
cdef _tell(Exchange exchange, bytes unit, Meter meter, long long now_us)
@cython.locals(begins=Py_ssize_t, ends=Py_ssize_t)
cdef bytes _without(bytes lines, bytes unit)
@cython.locals(share=Share, day=Purse)
cpdef bint spent(Exchange exchange) except -1
@cython.locals(gateway=Context, model=str, today=cython.longlong, since_us=cython.longlong, left=list, share=Share, scope=Scope,
               scopes=Scopes)
cpdef settle_shares(Exchange exchange, Account account, long long now_us, long long used)
