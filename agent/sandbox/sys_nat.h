/*
 * sys_nat - the launcher's side of SANDBOX_NETWORK_NAT: a veth pair per slot, one table of rules.
 *
 * A slot's second network namespace ("nat", beside the empty one) is made when a run first wants
 * it and kept for later runs of the slot. Names follow from data_dir and the slot's number
 * (sandbox_netlink.h), so that a later launcher finds and sweeps what an earlier one left. Nothing
 * of the machine's own is touched, but net.ipv4.ip_forward where sandbox.nat_forwarding allows it.
 */
#ifndef AGENT_SANDBOX_SYS_NAT_H
#define AGENT_SANDBOX_SYS_NAT_H

#include "agent/sandbox/sandbox.h"

struct launcher;
struct slot;
struct nat;
struct slot_nat;

/* At start, after live sandboxes were taken up again: theirs is kept, the rest swept away. A
 * failure is logged; runs that want the network then fail with it. */
void sandbox_nat_start(struct launcher *l);
/* Before a sandbox is built: for SANDBOX_NETWORK_NAT the slot's namespace and interface, whatever
 * of it is missing; nothing for another network. -EPERM (not allowed here), -Exxx with a sentence
 * for the run's record. */
int sandbox_nat_place(struct slot *s, enum sandbox_network network, struct err *e);
/* Before a run: the same, and its rules. What fails takes the slot's namespace with it. */
int sandbox_nat_run(struct slot *s, const struct sandbox_spec *spec, struct err *e);
/* The slot's second network namespace, or -1; stays this module's. */
int sandbox_nat_netns(const struct slot *s);
/* Is the slot's namespace there already? Such slots are preferred. */
bool sandbox_nat_ready(const struct slot *s);
/* Puts the interface's counters into the slot's telemetry descriptors, for the run's time, and what
 * they say now into its base. */
void sandbox_nat_base(struct slot *s);
/* A live sandbox of an earlier launcher. */
void sandbox_nat_adopt(struct slot *s);
/* What a live run may reach too. -ENOENT: it has no network; -ENOBUFS: SANDBOX_EGRESS_MAX of them
 * were added before. */
int sandbox_nat_egress(struct slot *s, const struct egress_net *nets, size_t n, struct err *e);
/* The socket at SANDBOX_DNS_ADDR that the run's resolver asks; -1; stays this module's. */
int sandbox_nat_dns(const struct slot *s);
/* The run is over and everything in it dead. What its sockets still have to say, they may say until
 * the next run. */
void sandbox_nat_run_over(struct slot *s);
/* Namespace, interface and rules of a slot that is not needed now. */
void sandbox_nat_slot_drop(struct slot *s);
/* At the end. Live sandboxes keep theirs. */
void sandbox_nat_end(struct launcher *l);

#endif
