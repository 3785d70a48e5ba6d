"""Mutation testing of minires: do the tests notice when a backward pass or a kernel is wrong?

    python -m tests.mutation                                    # ops, kernels and optimisers: about an hour
    python -m tests.mutation minires/ops/norm.py                # a file
    python -m tests.mutation BatchNorm.backward max_pool2d_dx   # functions
    python -m tests.mutation --list minires/ops                 # what would be edited
    python -m tests.mutation --sample 50 --seed 1               # fifty edits by chance

An *edit* changes one place of one function: a term is dropped, a sign turned, operands exchanged, a bound shifted by
one, ``+=`` made ``=``, a mask left out (`operators` has all of them).  The tests that execute the edited statement are
run until one fails, and then the edit is *killed*.  A *survivor* is either a test that is missing, or an edit that
changes no result; such an *equivalent* one stands in ``equivalent.txt`` with the reason.

How it works, and why it is fast: pytest collects the tests once.  For each edit the process forks; the child compiles
the edited source, gives the function in question its new code (`patching`) and runs the tests; how it ends is the
verdict (`runner`).  Which tests execute which statement, and how long they take, is recorded once by a run of tests on
code that notes each statement it executes (`reach`).  Of the tests that reach a statement those that have killed
something in that function go first, then the others up to a limit: in half of the time the quickest of all, in the
other half the quickest case of each test function, then the second, and so on.  A test that has noticed an edit is run
again without one, and if it fails there, too, it is not believed.  Neither annotations nor what an error says are
edited, nor thresholds that decide only how work is cut.

``--json`` writes numbers and survivors, a file of sources at a time; ``--again`` tries only these survivors once more.
"""
