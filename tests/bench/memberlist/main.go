// memberlist, for comparison and for tests of mixed clusters: Debian's Go library behind the same
// measurements as tests/bench/gossip.c, and a node that tells what it sees.
//
//	memberlist join N ROUNDS | crash N ROUNDS | update N ROUNDS | idle N SECONDS
//	memberlist node NAME ADDR:PORT JOIN|- KEY|-
//
// "node" writes one line of JSON for each change: {"name": "alive"|…}; a line "leave" on its input
// makes it leave, the end of the input stops it without a word.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

const limit = 100 * time.Second

var packets, octets int64

type counting struct{ *memberlist.NetTransport }

func (t *counting) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (t *counting) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	atomic.AddInt64(&packets, 1)
	atomic.AddInt64(&octets, int64(len(b)))
	return t.NetTransport.WriteToAddress(b, a)
}

type meta struct{ value atomic.Value }

func (d *meta) NodeMeta(int) []byte {
	v, _ := d.value.Load().([]byte)
	return v
}
func (d *meta) NotifyMsg([]byte)                  {}
func (d *meta) GetBroadcasts(_, _ int) [][]byte   { return nil }
func (d *meta) LocalState(bool) []byte            { return nil }
func (d *meta) MergeRemoteState(_ []byte, _ bool) {}

type node struct {
	list *memberlist.Memberlist
	meta *meta
	port int
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func create(name string) *node {
	quiet := log.New(io.Discard, "", 0)
	t, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{"127.0.0.1"}, BindPort: 0, Logger: quiet})
	check(err)
	n := &node{meta: &meta{}, port: t.GetAutoBindPort()}
	// As much as ours carries.
	n.meta.value.Store([]byte("metadata-of-18-bytes"[:18]))
	c := memberlist.DefaultLANConfig()
	c.Name, c.BindAddr, c.BindPort = name, "127.0.0.1", n.port
	c.AdvertiseAddr, c.AdvertisePort = "127.0.0.1", n.port
	c.Transport, c.Delegate, c.Logger = &counting{t}, n.meta, quiet
	n.list, err = memberlist.Create(c)
	check(err)
	return n
}

func whole(nodes []*node, want int) bool {
	for _, n := range nodes {
		if n != nil && n.list.NumMembers() != want {
			return false
		}
	}
	return true
}

func form(count int) ([]*node, float64) {
	begin := time.Now()
	nodes := make([]*node, count)
	nodes[0] = create("n0")
	seed := fmt.Sprintf("127.0.0.1:%d", nodes[0].port)
	for i := 1; i < count; i++ {
		nodes[i] = create(fmt.Sprintf("n%d", i))
		go nodes[i].list.Join([]string{seed})
	}
	for !whole(nodes, count) && time.Since(begin) < limit {
		time.Sleep(5 * time.Millisecond)
	}
	return nodes, time.Since(begin).Seconds()
}

func stop(nodes []*node) {
	for _, n := range nodes {
		if n != nil {
			n.list.Shutdown()
		}
	}
	time.Sleep(200 * time.Millisecond)
}

func say(v map[string]interface{}) {
	text, _ := json.Marshal(v)
	fmt.Println(string(text))
}

func join(count, rounds int) {
	for i := 0; i < rounds; i++ {
		nodes, took := form(count)
		say(map[string]interface{}{"what": "join", "nodes": count, "seconds": took})
		stop(nodes)
	}
}

func crash(count, rounds int) {
	for i := 0; i < rounds; i++ {
		nodes, _ := form(count)
		time.Sleep(3 * time.Second)
		victim := 1 + i%(count-1)
		begin := time.Now()
		nodes[victim].list.Shutdown()
		nodes[victim] = nil
		first, all := 0.0, 0.0
		for all == 0 && time.Since(begin) < limit {
			time.Sleep(5 * time.Millisecond)
			know := 0
			for _, n := range nodes {
				if n != nil && n.list.NumMembers() == count-1 {
					know++
				}
			}
			if first == 0 && know > 0 {
				first = time.Since(begin).Seconds()
			}
			if know == count-1 {
				all = time.Since(begin).Seconds()
			}
		}
		say(map[string]interface{}{"what": "crash", "nodes": count, "first": first, "all": all})
		stop(nodes)
	}
}

func knows(n *node, name, value string) bool {
	for _, m := range n.list.Members() {
		if m.Name == name {
			return string(m.Meta) == value
		}
	}
	return false
}

func update(count, rounds int) {
	nodes, _ := form(count)
	time.Sleep(5 * time.Second)
	for i := 0; i < rounds; i++ {
		of := nodes[i%count]
		value := fmt.Sprintf("metadata-%d", 100000000+i)
		begin := time.Now()
		of.meta.value.Store([]byte(value))
		go of.list.UpdateNode(10 * time.Second)
		for time.Since(begin) < limit {
			all := true
			for _, n := range nodes {
				if !knows(n, fmt.Sprintf("n%d", i%count), value) {
					all = false
					break
				}
			}
			if all {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		say(map[string]interface{}{"what": "update", "nodes": count,
			"seconds": time.Since(begin).Seconds()})
		time.Sleep(time.Second)
	}
	stop(nodes)
}

func cpu() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

func resident() float64 {
	var total, pages float64
	text, _ := os.ReadFile("/proc/self/statm")
	fmt.Sscan(string(text), &total, &pages)
	return pages * float64(os.Getpagesize())
}

func idle(count, seconds int) {
	runtime.GC()
	before := resident()
	nodes, _ := form(count)
	time.Sleep(15 * time.Second)
	grown := resident() - before
	p, o, used := atomic.LoadInt64(&packets), atomic.LoadInt64(&octets), cpu()
	time.Sleep(time.Duration(seconds) * time.Second)
	each := float64(count * seconds)
	say(map[string]interface{}{"what": "idle", "nodes": count,
		"packets": float64(atomic.LoadInt64(&packets)-p) / each,
		"bytes":   float64(atomic.LoadInt64(&octets)-o) / each,
		"cpu":     (cpu() - used) / each * 100, "rss": grown / float64(count)})
	stop(nodes)
}

type watcher struct {
	states map[string]string
	turn   chan func(map[string]string)
}

func (w *watcher) set(n *memberlist.Node, state string) {
	name := n.Name
	go func() { w.turn <- func(m map[string]string) { m[name] = state } }()
}
func (w *watcher) NotifyJoin(n *memberlist.Node)   { w.set(n, "alive") }
func (w *watcher) NotifyUpdate(n *memberlist.Node) { w.set(n, "alive") }
func (w *watcher) NotifyLeave(n *memberlist.Node) {
	if n.State == memberlist.StateLeft {
		w.set(n, "left")
	} else {
		w.set(n, "dead")
	}
}

func run(name, addr, seed, key string) {
	host, port, err := net.SplitHostPort(addr)
	check(err)
	w := &watcher{states: map[string]string{}, turn: make(chan func(map[string]string))}
	c := memberlist.DefaultLANConfig()
	c.Name, c.BindAddr, c.AdvertiseAddr, c.Events = name, host, host, w
	c.BindPort, err = strconv.Atoi(port)
	check(err)
	c.AdvertisePort = c.BindPort
	if key != "-" {
		c.SecretKey, err = base64.StdEncoding.DecodeString(key)
		check(err)
	}
	go func() {
		for f := range w.turn {
			f(w.states)
			text, _ := json.Marshal(w.states)
			fmt.Println(string(text))
		}
	}()
	list, err := memberlist.Create(c)
	check(err)
	if seed != "-" {
		_, err = list.Join([]string{seed})
		check(err)
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if in.Text() == "leave" {
			check(list.Leave(10 * time.Second))
			list.Shutdown()
			return
		}
	}
}

func main() {
	if len(os.Args) == 6 && os.Args[1] == "node" {
		run(os.Args[2], os.Args[3], os.Args[4], os.Args[5])
		return
	}
	kinds := map[string]func(int, int){"join": join, "crash": crash, "update": update, "idle": idle}
	if len(os.Args) != 4 || kinds[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: memberlist join|crash|update|idle N ROUNDS")
		os.Exit(2)
	}
	count, err := strconv.Atoi(os.Args[2])
	check(err)
	rounds, err := strconv.Atoi(os.Args[3])
	check(err)
	kinds[os.Args[1]](count, rounds)
}
