cimport cython

from fastgw.accel.histograms cimport Bounds, Histogram
from fastgw.exchange.call cimport Call
from fastgw.exchange.context cimport Judgement
from fastgw.exchange.record cimport streamed
from fastgw.exchange.state cimport ExchangeState, model_of
from fastgw.exchange.tally cimport Tally
from fastgw.exchange.tracing cimport kept_in
from fastgw.limits.account cimport Account, Accounts

cdef int _BY_METHOD, _OTHER_METHOD
cdef long long MOST_TOKENS, MOST_SPENT
cdef dict _NUMBERS

@cython.final
cdef class Cell:
    cdef public str endpoint, model
    cdef public dict statuses
    cdef public Histogram completion, duration, first_token, gaps, own, per_token, prompt, queued
    cdef public long long cached, cost, estimated, reasoning
    cdef public dict failed
    cdef public double well_s

    @cython.locals(key=cython.int)
    cpdef count(self, bytes method, int status)
    @cython.locals(found=Histogram)
    cpdef fail(self, str error, double took)
    cpdef many(self, int key, long long count)

@cython.final
cdef class Caller:
    cdef public long long completion, cost, prompt, requests

    cpdef add(self, Caller one)

cdef class Tallies(Tally):
    cdef public dict callers, failures, outcomes
    cdef public object energy, recent, trace
    cdef dict _cells
    cdef object _by
    cdef int _count
    cdef long long _crowded, _folded

    @cython.locals(
        cell=Cell, status=cython.int, at=cython.int, first=cython.int, completion=cython.longlong, started=cython.double,
        took=cython.double, token_at=cython.double, one=ExchangeState, owed=cython.bint, call=Call,
    )
    cpdef ended(self, object exchange, str outcome, double now)
    @cython.locals(cell=Cell, caller=Caller)
    cpdef spent(self, object exchange, long long cost)
    cpdef Histogram gaps(self, object exchange)
    cpdef used(self, object exchange)
    cpdef failed(self, str how)
    @cython.locals(prompt=cython.longlong, completion=cython.longlong)
    cpdef _used(self, Cell cell, ExchangeState exchange)
    @cython.locals(cells=dict, model=str)
    cpdef Cell _cell(self, ExchangeState exchange)
    cpdef Cell _bound(self, ExchangeState exchange, str model)
    cpdef Cell cell_for(self, str label, str model, object table)
    cpdef str _bounded(self, str name, Accounts accounts)
    cpdef Caller _caller(self, str name)
    @cython.locals(account=Account)
    cpdef str _name(self, ExchangeState exchange)
    @cython.locals(account=Account)
    cpdef _make_room(self, Accounts accounts)
    @cython.locals(caller=Caller)
    cpdef str _called(self, ExchangeState exchange, int requests, bint used)
    @cython.locals(prompt=cython.longlong, fresh=cython.longlong, completion=cython.longlong)
    cpdef _drew(self, Cell cell, ExchangeState exchange, str caller)

@cython.locals(known=Judgement)
cpdef str sampled(ExchangeState exchange)
