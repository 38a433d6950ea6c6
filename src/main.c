/* SPDX-License-Identifier: MIT */
/* Start: read the command line, go into the background, hand over to the keeper. */
#include "keeper.h"
#include "keeper-link.h"
#include "log.h"
#include "options.h"
#include "registry-check.h"
#include "worker.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

static int
complain(const GError *error)
{
    fprintf(stderr, "sectionfs: %s\n", error->message);
    return 1;
}

/* A full disk must not look like success. */
static int
end_of_text(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    fprintf(stderr, "sectionfs: cannot write the output\n");
    return 1;
}

static void
ready_in_foreground(void *unused)
{
    g_message("serving");
}

/* The starter waits for one byte; from then on the terminal is not ours. */
static void
ready_in_background(void *data)
{
    int *pipe_end = data;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (int fd = 0; null >= 0 && fd <= 2; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
    if (write(*pipe_end, "", 1) != 1)
        g_warning("whoever started this is gone");
    close(*pipe_end);
    *pipe_end = -1;
}

/* The keeper's process. @pipe_end: tells the starter. */
static int
keep_in_background(SfsConfig *config, int pipe_end)
{
    g_autoptr(GError) error = NULL;

    setsid();
    if (sfs_keeper_run(config, pipe_end, ready_in_background, &pipe_end, &error))
        return 0;
    /* Before it was ready the terminal hears of it, afterwards the log. */
    if (pipe_end >= 0)
        return complain(error);
    g_critical("%s", error->message);
    return 1;
}

/* 0 once the mount answers. */
static int
go_into_background(SfsConfig *config)
{
    int ends[2], status;
    char byte;
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return perror("sectionfs: pipe"), 1;
    pid = fork();
    if (pid < 0)
        return perror("sectionfs: fork"), 1;
    if (pid == 0) {
        int kept = fcntl(ends[1], F_DUPFD_CLOEXEC, SFS_FD_FIRST_FREE);

        return keep_in_background(config, kept);
    }
    close(ends[1]);
    if (read(ends[0], &byte, 1) == 1)
        return 0;
    /* It said why before it went. */
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) != 0
               ? WEXITSTATUS(status)
               : 1;
}

int
main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    SfsConfig config;
    SfsRun run;

    /* Whoever starts us may have it ignored: then no child's end would ever be told. */
    signal(SIGCHLD, SIG_DFL);
    if (argc == 2 && strcmp(argv[1], "--worker-check") == 0)
        return sfs_worker_check();
    if (argc == 3 && strcmp(argv[1], "--check-registry") == 0)
        return sfs_registry_check_mount(argv[2]);
    if (argc == 3 && strcmp(argv[1], "--worker") == 0)
        return sfs_worker_main();
    if (!sfs_options_parse(argc, argv, &config, &run, &error))
        return complain(error);
    if (run != SFS_RUN_MOUNT)
        return end_of_text();
    sfs_log_init(config.foreground, config.debug);
    if (!config.foreground)
        return go_into_background(&config);
    if (!sfs_keeper_run(&config, -1, ready_in_foreground, NULL, &error))
        return complain(error);
    return 0;
}
