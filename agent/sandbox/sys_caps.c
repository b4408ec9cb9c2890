/* Capabilities. */
#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/sandbox/sys_sandbox.h"

static int caps_set(uint64_t permitted, struct err *e)
{
    struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct d[2] = { { 0 } };
    for (size_t i = 0; i < 2; i++) {
        d[i].permitted = (uint32_t)(permitted >> (32 * i));
        d[i].effective = d[i].permitted;
    }
    if (syscall(SYS_capset, &h, d) < 0) {
        return err_set(e, -errno, "set capabilities");
    }
    return 0;
}

int sandbox_caps_drop_bounding(struct err *e)
{
    for (int cap = 0; cap <= 63; cap++) {
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
            if (errno == EINVAL) {
                break; /* past the kernel's last one */
            }
            return err_set(e, -errno, "drop capability %d from the bounding set", cap);
        }
    }
    return 0;
}

int sandbox_caps_drop_all(struct err *e)
{
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0) {
        return err_set(e, -errno, "clear ambient capabilities");
    }
    return caps_set(0, e);
}

int sandbox_caps_keep_only(int cap, struct err *e)
{
    return caps_set(UINT64_C(1) << cap, e);
}
