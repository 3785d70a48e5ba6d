// Where threads wait for each other: the block's barrier, and one meeting place for each warp.
//
// Threads that returned are not waited for.  Those that meet must have come to the same line: anything else is
// undefined on a card, and an error here.
#pragma once

namespace emu {

struct Warp;
using Work = void (*)(Warp&, unsigned lanes);

struct Operands {
    void* result;
    const void *a, *b;
    int source;    // the lane from which a shuffle takes a
};

struct Request {    // what a lane brings to a meeting
    Thread* thread;
    unsigned mask, line;
    Work work;
    Operands operands;
};

struct Warp {
    Lock lock;
    unsigned alive, waiting;    // bit masks of lanes
    Request request[32];
};

struct Barrier {
    Lock lock;
    unsigned waiting;
    struct { Thread* thread; unsigned line; } waiter[MOST];
};

static Warp warps[MOST / 32];
static Barrier barrier;

static inline void open_barriers(unsigned size) {
    threads_alive = size;
    barrier.waiting = 0;
    for (unsigned w = 0; w < MOST / 32; ++w) {
        const unsigned lanes = size > 32 * w ? size - 32 * w : 0;
        warps[w].waiting = 0;
        warps[w].alive = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
    }
    memset(places, 0, sizeof places);
}

static inline void release_block() {
    const auto& waiter = barrier.waiter;
    for (unsigned i = 1; i < barrier.waiting; ++i)
        if (waiter[i].line != waiter[0].line)
            fail("threads of one block wait at different barriers: thread %u in line %u, thread %u in line %u",
                 waiter[0].thread->number, waiter[0].line, waiter[i].thread->number, waiter[i].line);
    for (unsigned i = 0; i < barrier.waiting; ++i)
        if (waiter[i].thread != self) wake(waiter[i].thread);
    barrier.waiting = 0;
}

static inline void meet_block(unsigned line) {
    {
        Hold hold(barrier.lock);
        places[self->number] = {"__syncthreads", line};
        barrier.waiter[barrier.waiting++] = {self, line};
        if (barrier.waiting == threads_alive) return release_block();
    }
    wait();
}

// The lanes of this mask have all arrived: do their work and let them go on.
static inline void release_lanes(Warp& warp, unsigned mask) {
    const unsigned lanes = warp.waiting & mask;
    const Request& first = warp.request[__builtin_ctz(lanes)];
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        const Request& other = warp.request[__builtin_ctz(rest)];
        if (other.work != first.work || other.mask != first.mask || other.line != first.line)
            fail("lanes of one warp wait for each other at different places: thread %u at %s(0x%x) in line %u, "
                 "thread %u at %s(0x%x) in line %u",
                 first.thread->number, places[first.thread->number].name, first.mask, first.line,
                 other.thread->number, places[other.thread->number].name, other.mask, other.line);
    }
    first.work(warp, lanes);
    warp.waiting &= ~lanes;
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        Thread* thread = warp.request[__builtin_ctz(rest)].thread;
        if (thread != self) wake(thread);
    }
}

static inline void meet_warp(const char* name, unsigned mask, Work work, unsigned line, Operands operands = {}) {
    const unsigned number = self->number, lane = number % 32;
    Warp& warp = warps[number / 32];
    if (!(mask >> lane & 1)) fail("%s in line %u: lane %u is not in its own mask 0x%x", name, line, lane, mask);
    {
        Hold hold(warp.lock);
        places[number] = {name, line};
        warp.request[lane] = {self, mask, line, work, operands};
        warp.waiting |= 1u << lane;
        if ((warp.waiting & mask) == (warp.alive & mask)) return release_lanes(warp, mask);
    }
    wait();
}

// This thread has returned: whoever waited only for it goes on.
static inline void leave_block() {
    const unsigned number = self->number;
    Warp& warp = warps[number / 32];
    {
        Hold hold(warp.lock);
        places[number] = {RETURNED, 0};
        warp.alive &= ~(1u << number % 32);
        for (unsigned rest = warp.waiting; rest; rest &= rest - 1) {
            const unsigned lane = __builtin_ctz(rest), mask = warp.request[lane].mask;
            if ((warp.waiting >> lane & 1) && (warp.waiting & mask) == (warp.alive & mask)) release_lanes(warp, mask);
        }
    }
    Hold hold(barrier.lock);
    --threads_alive;
    if (barrier.waiting && barrier.waiting == threads_alive) release_block();
}

}  // namespace emu
