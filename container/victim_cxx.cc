/* SPDX-License-Identifier: BSD-2-Clause */
/* Exceptions that are being thrown, and thread_local objects, moved while they unwind: the tests compile it where they can. */
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <exception>
#include <future>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <unistd.h>

static std::atomic<int> alive{0}, unwound{0};
static std::string line;

static bool hear()
{
	char c;

	line.clear();
	while (read(0, &c, 1) == 1) {
		if (c == '\n')
			return true;
		line += c;
	}
	return false;
}

static void say(const std::string &text)
{
	dprintf(1, "%s\n", text.c_str());
}

struct counted {
	std::string text = "thread-local";
	counted() { alive++; }
	~counted() { alive--; }
};
static thread_local counted mine;

/* its destructor runs while an exception is on its way: there it waits, and is moved */
struct waits {
	~waits()
	{
		if (std::uncaught_exceptions() != 1)
			say("bad: no exception is on its way");
		if (!hear())
			line = "end";
		unwound++;
	}
};

static void deep(int n)
{
	if (n == 0)
		throw std::runtime_error("from " + std::string(100, 'x'));
	waits *none = nullptr;
	(void)none;
	deep(n - 1);
}

int main()
{
	std::exception_ptr kept;
	std::mutex lock;
	std::condition_variable cond;
	bool is_over = false;
	int n = 0;

	std::thread other([&] {
		mine.text += "!";
		std::unique_lock<std::mutex> l(lock);
		cond.wait(l, [&] { return is_over; });
		if (mine.text != "thread-local!")
			say("bad thread_local");
	});
	mine.text += "?";
	try {
		throw 4711;
	} catch (...) {
		kept = std::current_exception();
	}
	while (alive != 2)
		std::this_thread::yield();
	say("ready");
	for (;;) {
		try {
			waits w;

			deep(20);
		} catch (const std::runtime_error &e) {
			if (e.what() != "from " + std::string(100, 'x'))
				say("bad exception");
		}
		if (unwound != ++n || mine.text != "thread-local?" || alive != 2)
			say("bad: " + std::to_string(unwound) + " unwound");
		try {
			std::rethrow_exception(kept);
		} catch (int i) {
			if (i != 4711)
				say("bad kept exception");
		}
		if (line == "end")
			break;
		std::thread short_lived([] { mine.text += "."; });
		short_lived.join();
		say("ok " + line);
	}
	{
		std::lock_guard<std::mutex> l(lock);
		is_over = true;
	}
	cond.notify_all();
	other.join();
	say(alive == 1 ? "done" : "bad: a thread_local object is left");
	return 7;
}
