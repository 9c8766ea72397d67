cimport cython

cdef Py_ssize_t MAX_CLASSES, FEW
cdef double NEVER

@cython.final
cdef class Waiter:
    cdef readonly object item
    cdef readonly str flow
    cdef readonly long long cost
    cdef readonly Py_ssize_t priority
    cdef readonly double at
    cdef readonly bint waiting
    cdef Flow home
    cdef Waiter newer, older

@cython.final
cdef class Flow:
    cdef str name
    cdef long long deficit, due, generation, place, seen, ticket
    cdef Py_ssize_t count
    cdef Waiter newest, next, oldest
    cdef double above_s

@cython.final
cdef class Ring:
    cdef bint adaptive
    cdef readonly dict flows
    cdef list heap
    cdef double interval_s, target_s
    cdef long long generation, joined, place, quantum, round, tickets
    cdef readonly Py_ssize_t waiting

    cdef _rest(self)
    @cython.locals(flow=Flow, last=Waiter)
    cpdef put(self, Waiter waiter)
    @cython.locals(heap=list, entry=tuple, flow=Flow)
    cpdef Waiter first(self)
    @cython.locals(flow=Flow)
    cpdef take(self, Waiter waiter, double now)
    @cython.locals(flow=Flow, older=Waiter, newer=Waiter, late=cython.bint)
    cpdef leave(self, Waiter waiter, double now)
    @cython.locals(heap=list)
    cdef _unschedule(self, Flow flow)
    @cython.locals(before=cython.bint, visited=cython.longlong, visits=cython.longlong, due=cython.longlong,
                   stale=cython.longlong, waiter=Waiter, heap=list, entry=tuple)
    cdef _schedule(self, Flow flow)
    @cython.locals(heap=list, kept=list, entry=tuple, flow=Flow)
    cdef _clean(self)

@cython.final
cdef class FairQueue:
    cdef double _above_s, _interval_s, _now, _target_s
    cdef bint _adaptive
    cdef object _order
    cdef long long _quantum
    cdef list _rings
    cdef Py_ssize_t _waiting

    @cython.locals(ring=Ring)
    cpdef Py_ssize_t waiting(self, Py_ssize_t priority) except -1
    @cython.locals(waiter=Waiter, ring=Ring)
    cpdef Waiter put(self, object item, Py_ssize_t priority, str flow, object cost, double now)
    @cython.locals(ring=Ring)
    cpdef bint remove(self, Waiter waiter) except -1
    @cython.locals(ring=Ring)
    cpdef Waiter first(self, double now)
    @cython.locals(waiter=Waiter, ring=Ring)
    cpdef object pop(self, double now)
    cpdef bint overloaded(self, double now) except -1
    @cython.locals(oldest=Waiter)
    cdef _left(self, Waiter waiter)
