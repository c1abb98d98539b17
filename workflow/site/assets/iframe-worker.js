// Browsers refuse workers on pages opened from the disk (file://). There, the search of the documentation site runs in a hidden frame instead.
// MkDocs-Material would load such a replacement from another host; this one is part of the site. The theme looks for the name IFrameWorker.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = null
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const page = this.frame.contentDocument
      page.open()
      page.write(
        `<script>postMessage = message => parent.postMessage(message, "*"); importScripts = () => Promise.resolve()</script>` +
        `<script src="${url}"></script>`
      )
      page.close()
      this.loaded = new Promise(resolve => this.frame.contentWindow.addEventListener("load", resolve))
      window.addEventListener("message", event => {
        if (event.source !== this.frame.contentWindow) return
        const message = new MessageEvent("message", { data: event.data })
        this.dispatchEvent(message)
        if (this.onmessage) this.onmessage(message)
      })
    }
    postMessage(message) {
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: message })))
    }
    terminate() {
      this.frame.remove()
    }
  }
  window.Worker = window.IFrameWorker
}
