// gRPC in C++ by its callback API: `main server ADDRESS`, or `main client ADDRESS`. What is asked
// and answered on stdin and stdout is in benchmarks/native/loads.py.
#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "native.grpc.pb.h"

using grpc::Status;
using txzmq::benchmarks::native::v1::Count;
using txzmq::benchmarks::native::v1::Item;
using txzmq::benchmarks::native::v1::Native;
using txzmq::benchmarks::native::v1::TicksRequest;
using Clock = std::chrono::steady_clock;

namespace {

[[noreturn]] void Fail(const std::string& what) {
  std::cerr << what << std::endl;
  std::_Exit(1);
}

Item MakeItem(uint64_t sequence, const std::string& payload) {
  Item item;
  item.set_sequence(sequence);
  item.set_payload(payload);
  return item;
}

// As gRPC's performance notes advise where the next message does not wait for an answer: many
// messages become one system call.
// Not the first: gRPC sends it along with the metadata, and then a buffered one never leaves.
grpc::WriteOptions Buffered(bool hint) {
  return hint ? grpc::WriteOptions().set_buffer_hint() : grpc::WriteOptions();
}

// ---- the server

class Watch : public grpc::ServerWriteReactor<Item> {
 public:
  explicit Watch(const Item* request) : payload_(request->payload()) { Next(); }
  void OnWriteDone(bool ok) override { ok ? Next() : Finish(Status::CANCELLED); }
  void OnDone() override { delete this; }

 private:
  void Next() {
    item_ = MakeItem(++sequence_, payload_);
    StartWrite(&item_, Buffered(sequence_ > 1));
  }
  const std::string payload_;
  uint64_t sequence_ = 0;
  Item item_;
};

class Upload : public grpc::ServerReadReactor<Item> {
 public:
  explicit Upload(Count* count) : count_(count) { StartRead(&item_); }
  void OnReadDone(bool ok) override {
    if (!ok) {
      count_->set_items(items_);
      Finish(Status::OK);
      return;
    }
    ++items_;
    StartRead(&item_);
  }
  void OnDone() override { delete this; }

 private:
  Count* const count_;
  uint64_t items_ = 0;
  Item item_;
};

class Chat : public grpc::ServerBidiReactor<Item, Item> {
 public:
  Chat() { StartRead(&item_); }
  void OnReadDone(bool ok) override { ok ? StartWrite(&item_) : Finish(Status::OK); }
  void OnWriteDone(bool ok) override { ok ? StartRead(&item_) : Finish(Status::CANCELLED); }
  void OnDone() override { delete this; }

 private:
  Item item_;
};

class Ticks : public grpc::ServerWriteReactor<Item> {
 public:
  explicit Ticks(const TicksRequest* request)
      : burst_(request->burst()),
        pause_(request->pause()),
        payload_(request->payload_bytes(), '\xa5') {
    Next();
  }
  void OnWriteDone(bool ok) override {
    if (!ok) {
      Finish(Status::CANCELLED);
    } else if (sequence_ % burst_) {
      Next();
    } else {
      alarm_.Set(std::chrono::system_clock::now() + pause_, [this](bool) { Next(); });
    }
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    item_ = MakeItem(++sequence_, payload_);
    StartWrite(&item_, Buffered(sequence_ > 1 && sequence_ % burst_));
  }
  const uint64_t burst_;
  const std::chrono::milliseconds pause_;
  const std::string payload_;
  uint64_t sequence_ = 0;
  Item item_;
  grpc::Alarm alarm_;
};

class Service : public Native::CallbackService {
  grpc::ServerUnaryReactor* Echo(grpc::CallbackServerContext* context, const Item* request,
                                 Item* reply) override {
    reply->set_sequence(request->sequence());
    reply->set_payload(request->payload());
    auto* reactor = context->DefaultReactor();
    reactor->Finish(Status::OK);
    return reactor;
  }
  grpc::ServerWriteReactor<Item>* Watch(grpc::CallbackServerContext*,
                                        const Item* request) override {
    return new ::Watch(request);
  }
  grpc::ServerReadReactor<Item>* Upload(grpc::CallbackServerContext*, Count* count) override {
    return new ::Upload(count);
  }
  grpc::ServerBidiReactor<Item, Item>* Chat(grpc::CallbackServerContext*) override {
    return new ::Chat;
  }
  grpc::ServerWriteReactor<Item>* Ticks(grpc::CallbackServerContext*,
                                        const TicksRequest* request) override {
    return new ::Ticks(request);
  }
};

void Serve(std::string address) {
  Service service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  if (!server) Fail("cannot listen on " + address);
  if (address.rfind("unix:", 0)) address = "127.0.0.1:" + std::to_string(port);
  std::printf(
      "{\"address\": \"%s\", \"versions\": {\"grpc++\": \"%s\", \"protobuf\": \"%d.%d.%d\", "
      "\"g++\": \"%s\"}}\n",
      address.c_str(), grpc::Version().c_str(), GOOGLE_PROTOBUF_VERSION / 1000000,
      GOOGLE_PROTOBUF_VERSION / 1000 % 1000, GOOGLE_PROTOBUF_VERSION % 1000, __VERSION__);
  std::fflush(stdout);
  std::string line;
  while (std::getline(std::cin, line)) {
  }
  std::_Exit(0);  // streams may be open
}

// ---- the client

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
         (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

// Fires once so many have said that they are done.
class Latch {
 public:
  explicit Latch(int missing) : missing_(missing) {}
  void Done() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!--missing_) fired_.notify_all();
  }
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    fired_.wait(lock, [this] { return missing_ <= 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable fired_;
  int missing_;
};

struct Order {
  std::string load;
  int at_once;
  std::string payload;
  double seconds;
  int burst, pause;
};

// What one of those at once counts; no other thread touches it meanwhile, nor its cache line.
struct alignas(64) Tally {
  uint64_t count = 0;
  std::vector<double> latencies;
};

std::unique_ptr<grpc::ClientContext> NewContext() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  return context;
}

struct Calling {
  Native::Stub* stub;
  const Order* order;
  Clock::time_point over;
  Latch* done;
  Tally* tally;
};

class Caller : Calling {
 public:
  explicit Caller(const Calling& calling) : Calling(calling) { Next(); }

 private:
  void Next() {
    begun_ = Clock::now();
    request_ = MakeItem(++sequence_, order->payload);
    context_ = NewContext();
    stub->async()->Echo(context_.get(), &request_, &reply_,
                        [this](Status status) { Complete(status); });
  }
  void Complete(const Status& status) {
    if (!status.ok()) Fail("Echo: " + status.error_message());
    if (reply_.sequence() != request_.sequence() ||
        reply_.payload().size() != request_.payload().size())
      Fail("Echo: a reply is not the request's");
    const auto now = Clock::now();
    tally->latencies.push_back(std::chrono::duration<double>(now - begun_).count());
    ++tally->count;
    now < over ? Next() : done->Done();
  }
  Clock::time_point begun_;
  uint64_t sequence_ = 0;
  Item request_, reply_;
  std::unique_ptr<grpc::ClientContext> context_;
};

class Watcher : public grpc::ClientReadReactor<Item>, Calling {
 public:
  explicit Watcher(const Calling& calling) : Calling(calling), context_(NewContext()) {
    request_ = MakeItem(0, order->payload);
    stub->async()->Watch(context_.get(), &request_, this);
    StartRead(&item_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (!(++tally->count % 100) && Clock::now() >= over) {
      left_ = true;
      context_->TryCancel();
    } else {
      StartRead(&item_);
    }
  }
  void OnDone(const Status& status) override {
    if (!left_) Fail("Watch: " + status.error_message());
    done->Done();
  }

 private:
  std::unique_ptr<grpc::ClientContext> context_;
  Item request_, item_;
  bool left_ = false;
};

class Uploader : public grpc::ClientWriteReactor<Item>, Calling {
 public:
  explicit Uploader(const Calling& calling) : Calling(calling), context_(NewContext()) {
    stub->async()->Upload(context_.get(), &reply_, this);
    Next();
    StartCall();
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return;
    if (sequence_ % 100 || Clock::now() < over)
      Next();
    else
      StartWritesDone();
  }
  void OnDone(const Status& status) override {
    if (!status.ok()) Fail("Upload: " + status.error_message());
    if (reply_.items() != sequence_) Fail("Upload: items were lost");
    tally->count += sequence_;
    done->Done();
  }

 private:
  void Next() {
    item_ = MakeItem(++sequence_, order->payload);
    StartWrite(&item_, Buffered(sequence_ > 1));
  }
  std::unique_ptr<grpc::ClientContext> context_;
  uint64_t sequence_ = 0;
  Item item_;
  Count reply_;
};

class Chatter : public grpc::ClientBidiReactor<Item, Item>, Calling {
 public:
  explicit Chatter(const Calling& calling) : Calling(calling), context_(NewContext()) {
    stub->async()->Chat(context_.get(), this);
    Next();
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (reply_.sequence() != sequence_) Fail("Chat: an answer is not the item's");
    const auto now = Clock::now();
    tally->latencies.push_back(std::chrono::duration<double>(now - begun_).count());
    ++tally->count;
    now_ = now;
    GoOn();
  }
  void OnWriteDone(bool ok) override {
    if (ok) GoOn();
  }
  void OnDone(const Status& status) override {
    if (!status.ok()) Fail("Chat: " + status.error_message());
    done->Done();
  }

 private:
  void Next() {
    begun_ = Clock::now();
    item_ = MakeItem(++sequence_, order->payload);
    missing_ = 2;
    StartWrite(&item_);
    StartRead(&reply_);
  }
  // The answer may be told before the end of the write that it answers.
  void GoOn() {
    if (--missing_) return;
    if (now_ < over) {
      Next();
    } else {
      StartWritesDone();
      StartRead(&reply_);  // the end
    }
  }
  std::unique_ptr<grpc::ClientContext> context_;
  Clock::time_point begun_, now_;
  std::atomic<int> missing_{0};
  uint64_t sequence_ = 0;
  Item item_, reply_;
};

// Counts from the moment when all have begun, until it is told to leave.
class Subscriber : public grpc::ClientReadReactor<Item> {
 public:
  Subscriber(Native::Stub* stub, const Order& order, Latch* begun, Latch* done)
      : context_(NewContext()), begun_(begun), done_(done) {
    request_.set_burst(order.burst);
    request_.set_pause(order.pause);
    request_.set_payload_bytes(order.payload.size());
    stub->async()->Ticks(context_.get(), &request_, this);
    StartRead(&item_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (count_.fetch_add(1, std::memory_order_relaxed) == 0) begun_->Done();
    StartRead(&item_);
  }
  void OnDone(const Status& status) override {
    if (status.error_code() != grpc::StatusCode::CANCELLED)
      Fail("Ticks: " + status.error_message());
    done_->Done();
  }
  uint64_t count() const { return count_.load(std::memory_order_relaxed); }
  void Leave() { context_->TryCancel(); }

 private:
  std::unique_ptr<grpc::ClientContext> context_;
  Latch *begun_, *done_;
  std::atomic<uint64_t> count_{0};
  TicksRequest request_;
  Item item_;
};

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  // A connection of its own, where equal channels would share one.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

double Percentile(const std::vector<double>& ordered, double percent) {
  if (ordered.empty()) return 0;
  return ordered[std::max<size_t>(1, std::ceil(ordered.size() * percent / 100)) - 1];
}

void Report(std::vector<Tally> tallies, double seconds, double cpu) {
  uint64_t count = 0;
  std::vector<double> latencies;
  for (const auto& tally : tallies) {
    count += tally.count;
    latencies.insert(latencies.end(), tally.latencies.begin(), tally.latencies.end());
  }
  std::sort(latencies.begin(), latencies.end());
  std::printf(
      "{\"count\": %llu, \"seconds\": %.9g, \"cpu\": %.9g, \"p50\": %.9g, \"p90\": %.9g, "
      "\"p99\": %.9g, \"p999\": %.9g}\n",
      static_cast<unsigned long long>(count), seconds, cpu, Percentile(latencies, 50),
      Percentile(latencies, 90), Percentile(latencies, 99), Percentile(latencies, 99.9));
  std::fflush(stdout);
}

// Has the CPU time of the server read.
void TellBegun() {
  std::printf("{\"begun\": true}\n");
  std::fflush(stdout);
}

double Since(Clock::time_point begun) {
  return std::chrono::duration<double>(Clock::now() - begun).count();
}

template <typename Reactor>
void Keep(Native::Stub* stub, const Order& order) {
  std::vector<Tally> tallies(order.at_once);
  std::vector<std::unique_ptr<Reactor>> reactors;
  Latch done(order.at_once);
  TellBegun();
  const double cpu = CpuSeconds();
  const auto begun = Clock::now();
  const auto over =
      begun + std::chrono::duration_cast<Clock::duration>(
                  std::chrono::duration<double>(order.seconds));
  for (auto& tally : tallies)
    reactors.push_back(std::make_unique<Reactor>(Calling{stub, &order, over, &done, &tally}));
  done.Wait();
  const double seconds = Since(begun);
  Report(std::move(tallies), seconds, CpuSeconds() - cpu);
}

void FanOut(const std::string& address, const Order& order) {
  static std::vector<std::unique_ptr<Native::Stub>> stubs;  // kept for the next order
  while (stubs.size() < static_cast<size_t>(order.at_once))
    stubs.push_back(Native::NewStub(Connect(address)));
  std::vector<std::unique_ptr<Subscriber>> subscribers;
  Latch all(order.at_once), done(order.at_once);
  for (int number = 0; number < order.at_once; ++number)
    subscribers.push_back(
        std::make_unique<Subscriber>(stubs[number].get(), order, &all, &done));
  all.Wait();
  const auto counted = [&subscribers] {
    uint64_t count = 0;
    for (const auto& subscriber : subscribers) count += subscriber->count();
    return count;
  };
  TellBegun();
  const uint64_t before = counted();
  const double cpu = CpuSeconds();
  const auto begun = Clock::now();
  usleep(static_cast<useconds_t>(order.seconds * 1e6));
  Tally tally;
  tally.count = counted() - before;
  const double used = CpuSeconds() - cpu, seconds = Since(begun);
  Report({tally}, seconds, used);
  for (const auto& subscriber : subscribers) subscriber->Leave();
  done.Wait();
}

void Drive(const std::string& address) {
  const auto stub = Native::NewStub(Connect(address));
  std::printf("{\"ready\": true}\n");
  std::fflush(stdout);
  std::string line;
  while (std::getline(std::cin, line)) {
    Order order;
    size_t bytes;
    std::istringstream words(line);
    words >> order.load >> order.at_once >> bytes >> order.seconds >> order.burst >> order.pause;
    if (!words) Fail("not an order: " + line);
    order.payload = std::string(bytes, '\xa5');
    if (order.load == "unary")
      Keep<Caller>(stub.get(), order);
    else if (order.load == "responses")
      Keep<Watcher>(stub.get(), order);
    else if (order.load == "requests")
      Keep<Uploader>(stub.get(), order);
    else if (order.load == "both")
      Keep<Chatter>(stub.get(), order);
    else if (order.load == "fan-out")
      FanOut(address, order);
    else
      Fail("no such load: " + order.load);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) Fail("arguments: server|client ADDRESS");
  if (std::string(argv[1]) == "server")
    Serve(argv[2]);
  else
    Drive(argv[2]);
}
