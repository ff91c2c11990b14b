/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded under mpirun by tests/cli_watchdog.sh: on rank FB_HANG_RANK the FB_HANG_CALL-th broadcast never returns, as
 * when the network has lost a message. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int MPI_Bcast(void *buffer, int count, MPI_Datatype type, int root, MPI_Comm comm)
{
    static int calls;
    const char *who = getenv("FB_HANG_RANK"), *call = getenv("FB_HANG_CALL");
    int rank = 0;
    PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (who && call && rank == strtol(who, NULL, 10) && calls + 1 >= strtol(call, NULL, 10)) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        fprintf(stderr, "FEDBRATS_KILL: hang at %lld.%03ld s since 1970\n", (long long)now.tv_sec,
                now.tv_nsec / 1000000);
        for (;;)
            pause();
    }
    calls++;
    return PMPI_Bcast(buffer, count, type, root, comm);
}
